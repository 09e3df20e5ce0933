"""Few-shot draws, as CoOp (arXiv:2109.01134) makes them; and files that hold one."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from compatbench.data.images import SPLITS, Sample
from compatbench.data.task import Task, load_task
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json

MOST_VALIDATION_SHOTS = 4
FORMAT = 1

# The files given in place of drawing, by task, shots and seed.
ShotsFiles = Mapping[tuple[str, int, int], Path]


Item = TypeVar("Item", bound=Sample)


@dataclass(frozen=True)
class Draw:
    """The images that a cell may learn from."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]

    @property
    def sha256(self) -> str:
        """Hash of the images' identities and labels, in order: what two labs compare."""
        return sha256_json([_rows(self.train), _rows(self.val)])


@lru_cache(maxsize=256)
def draw_shots(task: Task, shots: int, seed: int, file: Path | None = None) -> Draw:
    """The draw of a task, shots and seed: CoOp's, or the one in a file.

    Raises:
        CompatbenchError: the file is broken, or is not of this task, shots, seed and split.
    """
    if file is not None:
        return _import_draw(file, task, shots, seed)
    # A split without images is not one to draw from.
    val = task.source.samples["val"] or None
    train, held_out = draw_few_shot(task.split("train"), val, shots, seed)
    return Draw(tuple(train), tuple(held_out))


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


def _positions(items: Sequence[Sample]) -> dict[int, list[int]]:
    """The positions of each class's items; the classes in the order of their first."""
    by_class: dict[int, list[int]] = {}
    for position, item in enumerate(items):
        by_class.setdefault(item.label, []).append(position)
    return by_class


def _draw(by_class: dict[int, list[int]], shots: int, generator: random.Random) -> list[int]:
    chosen: list[int] = []
    for group in by_class.values():
        chosen += group if len(group) < shots else generator.sample(group, shots)
    return chosen


class ShotsFile(BaseModel):
    """The content of a file with a draw.

    Attributes:
        split: hash of the whole split that was drawn from; may be left out if made by hand.
        sha256: of the draw.
        train, val: the images, each with its path as the split lists it, and its label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1]
    task: str
    shots: int = Field(ge=1)
    seed: int = Field(ge=0)
    split: str | None = None
    sha256: str | None = None
    train: list[tuple[str, int]]
    val: list[tuple[str, int]]

    @property
    def name(self) -> tuple[str, int, int]:
        """The task, shots and seed."""
        return self.task, self.shots, self.seed


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
    head = {
        "format": FORMAT,
        "task": task.name,
        "shots": shots,
        "seed": seed,
        "split": split_hash(task),
        "sha256": draw.sha256,
    }
    lines = [f" {json.dumps(name)}: {json.dumps(value)}," for name, value in head.items()]
    for name, samples, end in (("train", draw.train, ","), ("val", draw.val, "")):
        rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in _rows(samples))
        lines.append(f' "{name}": [\n  {rows}\n ]{end}' if rows else f' "{name}": []{end}')
    return "{\n" + "\n".join(lines) + "\n}\n"


@lru_cache(maxsize=256)
def read_shots_file(path: Path) -> ShotsFile:
    """Reads a file that holds a draw.

    Raises:
        CompatbenchError: it is missing, no JSON, breaks the format, or was changed.
    """
    try:
        file = ShotsFile.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise CompatbenchError(f"shots file {path}: field '{field}': {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise CompatbenchError(f"shots file {path} cannot be read: {error}") from None
    found = sha256_json([list(map(list, file.train)), list(map(list, file.val))])
    if file.sha256 not in (None, found):
        raise CompatbenchError(
            f"shots file {path}: its images do not match its field 'sha256'; get the file again, "
            "or remove the field if you changed it on purpose"
        )
    return file


def read_draws(paths: Iterable[Path]) -> dict[tuple[str, int, int], Path]:
    """Files with draws, by the task, shots and seed of the draw.

    Raises:
        CompatbenchError: a broken file, or two for the same task, shots and seed.
    """
    files: dict[tuple[str, int, int], Path] = {}
    for path in paths:
        path = path.resolve()
        file = read_shots_file(path)
        if files.setdefault(file.name, path) != path:
            raise CompatbenchError(
                f"{path} and {files[file.name]} are both a draw of {file.shots} shots of "
                f"'{file.task}' with seed {file.seed}; give one"
            )
        _import_draw(path, load_task(file.task), file.shots, file.seed)
    return files


def _import_draw(path: Path, task: Task, shots: int, seed: int) -> Draw:
    file = read_shots_file(path)
    if file.name != (task.name, shots, seed):
        raise CompatbenchError(
            f"shots file {path} is a draw of {file.shots} shots of '{file.task}' with seed "
            f"{file.seed}, not of {shots} shots of '{task.name}' with seed {seed}"
        )
    if file.split not in (None, found := split_hash(task)):
        raise CompatbenchError(
            f"shots file {path} was drawn from another split of '{task.name}' "
            f"({str(file.split)[:12]}, here {found[:12]}); use the same split file or file list"
        )
    train = _find(path, "train", file.train, task.split("train"))
    val = _find(path, "val", file.val, task.split("val"))
    if shared := {sample.id for sample in train} & {sample.id for sample in val}:
        raise CompatbenchError(f"shots file {path}: '{min(shared)}' is in train and in val")
    return Draw(train, val)


def _find(
    path: Path, name: str, rows: Sequence[tuple[str, int]], samples: Iterable[Sample]
) -> tuple[Sample, ...]:
    wanted = dict(rows)
    if len(wanted) != len(rows):
        raise CompatbenchError(f"shots file {path}: '{name}' lists an image twice")
    found = {sample.id: sample for sample in samples if sample.id in wanted}
    for image, label in rows:
        if image not in found:
            raise CompatbenchError(
                f"shots file {path}: '{image}' of '{name}' is not among the images to draw from"
            )
        if found[image].label != label:
            raise CompatbenchError(
                f"shots file {path}: '{image}' has label {label}, here {found[image].label}"
            )
    return tuple(found[image] for image, _ in rows)


def _rows(samples: Sequence[Sample]) -> list[list[str | int]]:
    return [[sample.id, sample.label] for sample in samples]
