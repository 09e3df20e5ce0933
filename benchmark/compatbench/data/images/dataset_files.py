"""Reading of a dataset's files: plain files below its folder, of bounded size."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from compatbench.errors import CompatbenchError
from compatbench.files.sizes import format_bytes
from compatbench.messages import first_line, first_problem

MOST_BYTES = 1 << 30  # for a file that is read whole, and for an image in a shard
Model = TypeVar("Model", bound=BaseModel)


class DataMissing(CompatbenchError):
    """A task's images are not on this machine, or not in the expected place."""


class BrokenImages(CompatbenchError):
    """Images or lists of a task are here but cannot be used, so that the task has no results."""


class WrongClasses(BrokenImages):
    """The classes on the disk are not the card's classes, or not in its order."""


@contextmanager
def reading(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Turn errors of the block into ``BrokenImages`` that name the dataset's file or folder.

    ``others`` are errors of its reader besides ``OSError`` and ``ValueError``.
    """
    try:
        yield
    except CompatbenchError:
        raise
    except FileNotFoundError:
        raise BrokenImages(f"{path} is missing; see docs/datasets.md") from None
    except (OSError, ValueError, *others) as error:
        raise BrokenImages(f"{path} cannot be read: {first_line(error)}") from None


def inside(folder: Path, *parts: str | Path) -> Path:
    """Return a path below a dataset's folder; raise an error if links lead out of the folder."""
    path = folder.joinpath(*parts)
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        problem = f"{path} is a link out of the dataset's folder {folder}"
        fix = "put what it leads to in its place, see docs/datasets.md"
        raise CompatbenchError(f"{problem}; {fix}")
    return path


def size_of(path: Path) -> int:
    """Return the bytes of a plain file; raise an error for a pipe, which would be waited for."""
    with reading(path):
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is not a plain file")
    return facts.st_size


def read_bytes(path: Path, start: int = 0, size: int = -1) -> bytes:
    """Return the content of a dataset's file, or a part of it; at most ``MOST_BYTES``."""
    with reading(path):
        bytes_to_read = size
        if size < 0:
            bytes_to_read = size_of(path) - start
        if bytes_to_read > MOST_BYTES:
            raise ValueError(f"it is larger than {format_bytes(MOST_BYTES)}")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 file that are not empty, without space around them."""
    with reading(path):
        lines = read_bytes(path).decode("utf-8").split("\n")
    stripped = [line.strip() for line in lines]
    return [line for line in stripped if line]


def read_json(path: Path, model: type[Model]) -> Model:
    """Read a model from a JSON file; an error names the file and the field."""
    try:
        return model.model_validate_json(read_bytes(path))
    except ValidationError as error:
        field, message = first_problem(error)
        where = f"{path}: field {field!r}" if field else f"{path}"
        raise CompatbenchError(f"{where}: {message}") from None
