"""Few-shot draws, as CoOp (arXiv:2109.01134) makes them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache

from compatbench.data.cards.shots import MOST_VALIDATION_SHOTS
from compatbench.data.images.source import SPLITS, Sample
from compatbench.data.task import Task, keep_classes, load_task
from compatbench.errors import CompatbenchError

HELD_OUT = "{}.held-out-{}-{}"  # task, shots and seed
NESTED = 16  # shots of the draw that smaller ones are the first images of


@dataclass(frozen=True)
class Draw:
    """The images that a cell may learn from."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]


@lru_cache(maxsize=256)
def draw_shots(
    task: Task,
    shots: int,
    seed: int,
    most: int = MOST_VALIDATION_SHOTS,
    held_out_of: int | None = None,
) -> Draw:
    """Return the draw of a task, shots and seed.

    That of a half of the classes is its part of the whole task's draw, as CoCoOp's is.

    Args:
        most: the most validation images of a class.
        held_out_of: the shots of a larger draw; return what ``hold_out`` keeps of it.
    """
    if held_out_of is not None:
        return hold_out(task, held_out_of, seed, most)[0]
    if task.part is not None:
        whole, kept = task.part
        draw = draw_shots(whole, shots, seed, most)
        return Draw(*(tuple(keep_classes(images, kept)) for images in (draw.train, draw.val)))
    # A split without images is not one to draw from.
    val = task.source.samples["val"] or None
    train, held_out = draw_few_shot(task.split("train"), val, shots, seed, most)
    return Draw(tuple(train), tuple(held_out))


def draw_first(task: Task, shots: int, seed: int, most: int = MOST_VALIDATION_SHOTS) -> Draw:
    """The first images of each class of a larger draw, so that fewer shots are part of more.

    Draws of different sizes share no image but by chance. These are nested up to ``NESTED`` shots,
    where they are what ``draw_shots`` draws; validation takes ``min(shots, most)`` per class.

    Raises:
        CompatbenchError: no class of the task has so many images.
    """
    if shots > task.most_shots:
        raise CompatbenchError(
            f"{shots} labels per class cannot be drawn from '{task.name}', which has "
            f"{task.most_shots} training images of a class at most; ask for fewer"
        )

    def first(images: Sequence[Sample], count: int) -> tuple[Sample, ...]:
        by_class: dict[int, list[Sample]] = {}
        for image in images:  # which are grouped by class
            by_class.setdefault(image.label, []).append(image)
        return tuple(image for group in by_class.values() for image in group[:count])

    whole = draw_shots(task, max(shots, NESTED), seed, most)
    return Draw(first(whole.train, shots), first(whole.val, min(shots, most)))


def draw_few_shot(
    train: Sequence[Sample],
    val: Sequence[Sample] | None,
    shots: int,
    seed: int,
    most: int = MOST_VALIDATION_SHOTS,
) -> tuple[list[Sample], list[Sample]]:
    """Draws the few-shot training and validation items of a seed, grouped by class.

    One stream of Python's ``random`` serves both, training first; classes are
    visited in the order of their first appearance; a class with fewer items than
    shots gives all it has. Validation takes ``min(shots, most)`` per class.

    Without ``val`` the validation images are drawn from the training images that are left over,
    by the same stream, and never from the test images, as CoOp does for ImageNet.
    """
    generator = random.Random(seed)
    chosen = _draw(train, range(len(train)), shots, generator)
    few = [train[i] for i in chosen]
    held_out = min(shots, most)
    if val is not None:
        return few, [val[i] for i in _draw(val, range(len(val)), held_out, generator)]
    left = sorted(set(range(len(train))).difference(chosen))
    return few, [train[i] for i in _draw(train, left, held_out, generator)]


def _draw(
    items: Sequence[Sample], positions: Iterable[int], shots: int, generator: random.Random
) -> list[int]:
    """Positions of ``shots`` items of each class, of those that may be drawn."""
    by_class: dict[int, list[int]] = {item.label: [] for item in items}
    for position in positions:
        by_class[items[position].label].append(position)
    groups = by_class.values()
    drawn = [g if len(g) < shots else generator.sample(g, shots) for g in groups]
    return [position for group in drawn for position in group]


def count_kept(shots: int) -> int:
    """The shots of a draw without the quarter that ``hold_out`` takes."""
    return shots - shots // 4


def hold_out(
    task: Task, shots: int, seed: int, most: int = MOST_VALIDATION_SHOTS
) -> tuple[Draw, list[Sample]]:
    """A draw without a quarter of each class's training shots, drawn at random, and that quarter.

    It stands for test images where settings are chosen.
    """
    draw = draw_shots(task, shots, seed, most)
    held = _draw(draw.train, range(len(draw.train)), shots // 4, random.Random(seed))
    kept = sorted(set(range(len(draw.train))).difference(held))
    return Draw(tuple(draw.train[i] for i in kept), draw.val), [draw.train[i] for i in held]


def load_test_set(name: str) -> Task:
    """A task or variant, or a test set of what is held out of a draw, named as ``HELD_OUT``."""
    task, *draw = re.split(HELD_OUT.format("", r"(\d+)", r"(\d+)$"), name)
    if not draw:
        return load_task(name)
    whole, source = load_task(task), copy(load_task(task).source)
    held = hold_out(whole, int(draw[0]), int(draw[1]))[1]
    source.samples = {split: held if split == "test" else () for split in SPLITS}
    about = {"name": name, "parent": task, "counts": {"test": len(held)}, "least_per_class": {}}
    return Task(whole.card.model_copy(update=about), whole.labels, source)
