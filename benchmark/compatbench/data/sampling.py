"""Few-shot draws, as CoOp (arXiv:2109.01134) makes them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

MOST_VALIDATION_SHOTS = 4


class Labelled(Protocol):
    @property
    def label(self) -> int: ...


Item = TypeVar("Item", bound=Labelled)


def draw_few_shot(
    train: Sequence[Item], val: Sequence[Item] | None, shots: int, seed: int
) -> tuple[list[Item], list[Item]]:
    """Draws the few-shot training and validation items of a seed.

    One stream of Python's ``random`` serves both, training first; classes are
    visited in the order of their first appearance; a class with fewer items than
    shots gives all it has. Validation takes ``min(shots, 4)`` per class.

    Args:
        val: None for a task without validation images. They are then drawn from the
            training images that are left over, by the same stream, and never from the
            test images, as CoOp does for ImageNet.

    Returns:
        The training items and the validation items, grouped by class.
    """
    generator = random.Random(seed)
    by_class = _positions(train)
    drawn = _draw(by_class, shots, generator)
    few = [train[position] for position in drawn]
    held_out = min(shots, MOST_VALIDATION_SHOTS)
    if val is not None:
        return few, [val[position] for position in _draw(_positions(val), held_out, generator)]
    taken = set(drawn)
    left = {
        label: [position for position in positions if position not in taken]
        for label, positions in by_class.items()
    }
    return few, [train[position] for position in _draw(left, held_out, generator)]


def _positions(items: Sequence[Labelled]) -> dict[int, list[int]]:
    """Where each class's items stand; the classes in the order of their first."""
    by_class: dict[int, list[int]] = {}
    for position, item in enumerate(items):
        by_class.setdefault(item.label, []).append(position)
    return by_class


def _draw(by_class: dict[int, list[int]], shots: int, generator: random.Random) -> list[int]:
    chosen: list[int] = []
    for group in by_class.values():
        chosen += group if len(group) < shots else generator.sample(group, shots)
    return chosen
