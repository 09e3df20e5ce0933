"""Few-shot draws, as in CoOp (arXiv:2109.01134)."""

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
NESTED = 16  # shots of the draw whose first images are the smaller nested draws


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
    max_val_shots: int = MOST_VALIDATION_SHOTS,
    held_out_of: int | None = None,
) -> Draw:
    """Return the draw of a task, shots and seed.

    The draw of a half of the classes is its part of the whole task's draw, as in CoCoOp.

    Args:
        max_val_shots: the maximum of validation images per class.
        held_out_of: the shots of a larger draw; return what ``hold_out`` keeps of it.
    """
    if held_out_of is not None:
        kept_draw, _ = hold_out(task, held_out_of, seed, max_val_shots)
        return kept_draw
    if task.part is not None:
        whole, kept = task.part
        draw = draw_shots(whole, shots, seed, max_val_shots)
        train = keep_classes(draw.train, kept)
        val = keep_classes(draw.val, kept)
        return Draw(tuple(train), tuple(val))
    # None, not an empty split, makes validation images come from the training split.
    val_split = task.source.samples["val"] or None
    train, val = draw_few_shot(task.split("train"), val_split, shots, seed, max_val_shots)
    return Draw(tuple(train), tuple(val))


def draw_first(
    task: Task, shots: int, seed: int, max_val_shots: int = MOST_VALIDATION_SHOTS
) -> Draw:
    """Return the first images of each class of a larger draw, so that draws are nested.

    Draws of ``draw_shots`` with different shots share images only by chance. These are nested up
    to ``NESTED`` shots, where both functions return the same. Validation gets
    ``min(shots, max_val_shots)`` images per class.

    Raises:
        CompatbenchError: no class of the task has so many images.
    """
    if shots > task.max_shots:
        raise CompatbenchError(
            f"{shots} labels per class cannot be drawn from '{task.name}', which has "
            f"{task.max_shots} training images of a class at most; ask for fewer"
        )

    def first(images: Sequence[Sample], count: int) -> tuple[Sample, ...]:
        by_class: dict[int, list[Sample]] = {}
        for image in images:
            by_class.setdefault(image.label, []).append(image)
        chosen: list[Sample] = []
        for group in by_class.values():
            chosen += group[:count]
        return tuple(chosen)

    whole = draw_shots(task, max(shots, NESTED), seed, max_val_shots)
    train = first(whole.train, shots)
    val = first(whole.val, min(shots, max_val_shots))
    return Draw(train, val)


def draw_few_shot(
    train: Sequence[Sample],
    val: Sequence[Sample] | None,
    shots: int,
    seed: int,
    max_val_shots: int = MOST_VALIDATION_SHOTS,
) -> tuple[list[Sample], list[Sample]]:
    """Draw the few-shot training and validation items of a seed, grouped by class.

    One stream of Python's ``random`` serves both, training first. Classes are visited in the
    order of their first appearance. A class with fewer items than shots gives all its items.
    Validation gets ``min(shots, max_val_shots)`` items per class.

    Without ``val``, the same stream draws the validation images from the training images that are
    left over, never from the test images, as CoOp does for ImageNet.
    """
    generator = random.Random(seed)
    drawn = _draw(train, range(len(train)), shots, generator)
    few_shot = [train[i] for i in drawn]
    val_shots = min(shots, max_val_shots)
    if val is None:
        left_over = sorted(set(range(len(train))).difference(drawn))
        val = train
        places = _draw(train, left_over, val_shots, generator)
    else:
        places = _draw(val, range(len(val)), val_shots, generator)
    return few_shot, [val[i] for i in places]


def _draw(
    items: Sequence[Sample], positions: Iterable[int], shots: int, generator: random.Random
) -> list[int]:
    """Draw ``shots`` of the given positions for each class; return them grouped by class."""
    by_class: dict[int, list[int]] = {item.label: [] for item in items}
    for position in positions:
        by_class[items[position].label].append(position)
    drawn: list[int] = []
    for group in by_class.values():
        if len(group) < shots:
            drawn += group
        else:
            drawn += generator.sample(group, shots)
    return drawn


def count_kept(shots: int) -> int:
    """Return the shots of a draw without the quarter that ``hold_out`` takes."""
    return shots - shots // 4


def hold_out(
    task: Task, shots: int, seed: int, max_val_shots: int = MOST_VALIDATION_SHOTS
) -> tuple[Draw, list[Sample]]:
    """Return a draw without a random quarter of each class's training shots, and that quarter.

    The quarter takes the place of test images where settings are chosen.
    """
    draw = draw_shots(task, shots, seed, max_val_shots)
    everything = range(len(draw.train))
    held = _draw(draw.train, everything, shots // 4, random.Random(seed))
    kept = sorted(set(everything).difference(held))
    train = tuple(draw.train[i] for i in kept)
    return Draw(train, draw.val), [draw.train[i] for i in held]


def load_test_set(name: str) -> Task:
    """Return a task or variant, or the test set held out of a draw, if ``HELD_OUT`` names it."""
    task, *draw = re.split(HELD_OUT.format("", r"(\d+)", r"(\d+)$"), name)
    if not draw:
        return load_task(name)
    shots = int(draw[0])
    seed = int(draw[1])
    whole = load_task(task)
    _, held = hold_out(whole, shots, seed)
    source = copy(whole.source)
    source.samples = dict.fromkeys(SPLITS, ())
    source.samples["test"] = held
    changes = {"name": name, "parent": task, "counts": {"test": len(held)}, "least_per_class": {}}
    return Task(whole.card.model_copy(update=changes), whole.labels, source)
