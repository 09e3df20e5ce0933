"""Few-shot draws, as CoOp (arXiv:2109.01134) makes them; and files that hold one."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compatbench.data.cards.shots import MOST_VALIDATION_SHOTS
from compatbench.data.images.dataset_files import read_json
from compatbench.data.images.source import SPLITS, Sample
from compatbench.data.task import Task, keep_classes, load_task
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json

# The files given in place of drawing, by task, shots and seed.
ShotsFiles = Mapping[tuple[str, int, int], Path]
HELD_OUT = "{}.held-out-{}-{}"  # task, shots and seed
NESTED = 16  # shots of the draw that smaller ones are the first images of


@dataclass(frozen=True)
class Draw:
    """The images that a cell may learn from."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]

    @property
    def sha256(self) -> str:
        """Hash of the images' identities and labels, in order: what two labs compare."""
        return sha256_json([*self.rows.values()])

    @property
    def rows(self) -> dict[str, list[tuple[str, int]]]:
        """The images' identities and labels, by split."""
        parts = {"train": self.train, "val": self.val}
        return {split: [(image.id, image.label) for image in part] for split, part in parts.items()}


@lru_cache(maxsize=256)
def draw_shots(
    task: Task, shots: int, seed: int, file: Path | None = None, most: int = MOST_VALIDATION_SHOTS
) -> Draw:
    """The draw of a task, shots and seed: CoOp's, or the one in a file.

    That of a half of the classes is its part of the whole task's draw, as CoCoOp's is. ``most`` is
    how many validation images a class has at most; a file says so itself.
    """
    if file is not None:
        return _import_draw(file, task, shots, seed)
    if task.part is not None:
        whole, kept = task.part
        draw = draw_shots(whole, shots, seed, None, most)
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

    whole = draw_shots(task, max(shots, NESTED), seed, None, most)
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
    draw = draw_shots(task, shots, seed, None, most)
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


class ShotsFile(BaseModel):
    """The content of a file with a draw; the hashes may be left out if it is made by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    task: str
    shots: int = Field(ge=1)
    seed: int = Field(ge=0)
    split: str | None = None  # hash of the whole split that was drawn from
    sha256: str | None = None  # of the draw
    train: list[tuple[str, int]]  # each image's path as the split lists it, and its label
    val: list[tuple[str, int]]

    @model_validator(mode="after")
    def _check(self) -> ShotsFile:
        if self.sha256 not in (None, sha256_json([self.train, self.val])):
            raise ValueError(
                "its images do not match its field 'sha256'; get the file again, or remove the "
                "field if you changed it on purpose"
            )
        for name, rows in (("train", self.train), ("val", self.val)):
            if len(dict(rows)) != len(rows):
                raise ValueError(f"'{name}' lists an image twice")
        if shared := set(dict(self.train)).intersection(dict(self.val)):
            raise ValueError(f"{min(shared)!r} is in train and in val")
        return self

    @property
    def name(self) -> tuple[str, int, int]:
        """The task, shots and seed."""
        return self.task, self.shots, self.seed

    def __str__(self) -> str:
        return f"a draw of {self.shots} shots of '{self.task}' with seed {self.seed}"


def split_hash(task: Task) -> str:
    """Hash of a task's split: every image's path and label, in order, and the class names."""
    digest = hashlib.sha256("\n".join(task.labels.names).encode())
    for split in SPLITS:
        digest.update(f"\n{split}\n".encode())
        for sample in task.source.samples[split]:
            digest.update(f"{sample.label}\t{sample.id}\n".encode())
    return digest.hexdigest()


def export_draw(task: Task, draw: Draw, shots: int, seed: int) -> str:
    """The text of a file that holds a draw: JSON, an image on each line."""
    head = {"format": 1, "task": task.name, "shots": shots, "seed": seed}
    head |= {"split": split_hash(task), "sha256": draw.sha256}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for name, images in draw.rows.items():
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in images)
        lines.append(f' "{name}": [\n  {rows}\n ]' if rows else f' "{name}": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read_draws(paths: Iterable[Path]) -> dict[tuple[str, int, int], Path]:
    """Files with draws, by the task, shots and seed of the draw; two for one are refused."""
    files: dict[tuple[str, int, int], Path] = {}
    for path in (path.resolve() for path in paths):
        file = read_json(path, ShotsFile)
        if files.setdefault(file.name, path) != path:
            raise CompatbenchError(f"{path} and {files[file.name]} are both {file}; give one")
        _import_draw(path, load_task(file.task), file.shots, file.seed)
    return files


def _import_draw(path: Path, task: Task, shots: int, seed: int) -> Draw:
    file = read_json(path, ShotsFile)
    if file.name != (task.name, shots, seed):
        wanted = f"{shots} shots of '{task.name}' with seed {seed}"
        raise CompatbenchError(f"{path} is {file}, not one of {wanted}")
    if file.split not in (None, here := split_hash(task)):
        raise CompatbenchError(
            f"{path} was drawn from another split of '{task.name}' "
            f"({str(file.split)[:12]}, here {here[:12]}); use the same split file or file list"
        )
    return find_drawn(path, file, task)


def find_drawn(path: Path, file: ShotsFile, task: Task) -> Draw:
    """The task's images that a file lists; ``path`` is named where one is not as it says."""
    drawn: list[tuple[Sample, ...]] = []
    for name, rows in (("train", dict(file.train)), ("val", dict(file.val))):
        listed = {sample.id: sample for sample in task.split(name) if sample.id in rows}
        for image, label in rows.items():
            where = f"{path}: {image!r} of '{name}'"
            if image not in listed:
                raise CompatbenchError(f"{where} is not among the images to draw from")
            if (here := listed[image].label) != label:
                raise CompatbenchError(f"{where} has label {label}, here {here}")
        drawn.append(tuple(listed[image] for image in rows))
    return Draw(*drawn)
