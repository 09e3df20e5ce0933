"""Few-shot draws, as CoOp (arXiv:2109.01134) makes them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

MOST_VALIDATION_SHOTS = 4


class Labelled(Protocol):
    @property
    def label(self) -> int: ...


Item = TypeVar("Item", bound=Labelled)


def draw_few_shot(
    train: Sequence[Item], val: Sequence[Item], shots: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """Draws the few-shot training and validation items of a seed.

    One stream of Python's ``random`` serves both, training first; classes are
    visited in the order of their first appearance; a class with fewer items than
    shots gives all it has. Validation takes ``min(shots, 4)`` per class.

    Returns:
        The training items and the validation items, grouped by class.
    """
    generator = random.Random(seed)
    return (
        _draw(train, shots, generator),
        _draw(val, min(shots, MOST_VALIDATION_SHOTS), generator),
    )


def _draw(items: Iterable[Item], shots: int, generator: random.Random) -> list[Item]:
    by_class: dict[int, list[Item]] = {}
    for item in items:
        by_class.setdefault(item.label, []).append(item)
    chosen: list[Item] = []
    for group in by_class.values():
        chosen += group if len(group) < shots else generator.sample(group, shots)
    return chosen
