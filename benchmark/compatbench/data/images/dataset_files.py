"""Reads the files of a dataset, plain ones below its folder and of bounded size."""

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

MOST_BYTES = 1 << 30  # of a file that is read whole, and of an image in a shard
Model = TypeVar("Model", bound=BaseModel)


class DataMissing(CompatbenchError):
    """A task's images are not on this machine, or not where they are looked for."""


class BrokenImages(CompatbenchError):
    """Images or lists of a task are on this machine and cannot be used; they cost its results."""


class WrongClasses(BrokenImages):
    """The classes on the disk are not the card's, or not in its order."""


@contextmanager
def reading(path: Path, *others: type[Exception]) -> Iterator[None]:
    """Names a dataset's file or folder in what goes wrong while it is read.

    ``others``: what its reader raises besides ``OSError`` and ``ValueError``.
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
    """A path below a dataset's folder; refused if links lead out of the folder."""
    path = folder.joinpath(*parts)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        what = f"{path} is a link out of the dataset's folder {folder}"
        raise CompatbenchError(f"{what}; put what it leads to in its place, see docs/datasets.md")
    return path


def size_of(path: Path) -> int:
    """The bytes of a plain file; a pipe would be waited for."""
    with reading(path):
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is not a plain file")
    return facts.st_size


def read_bytes(path: Path, start: int = 0, size: int = -1) -> bytes:
    """The content of a dataset's file, or a part of it; never more than ``MOST_BYTES``."""
    with reading(path):
        if (size_of(path) - start if size < 0 else size) > MOST_BYTES:
            raise ValueError(f"it is larger than {format_bytes(MOST_BYTES)}")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)


def read_lines(path: Path) -> list[str]:
    """As ``read_bytes``, for UTF-8: the lines that are not empty, without space around them."""
    with reading(path):
        lines = read_bytes(path).decode("utf-8").split("\n")
    return list(filter(None, map(str.strip, lines)))


def read_json(path: Path, model: type[Model]) -> Model:
    """As ``read_bytes``, for JSON of a model; an error names the file and the field."""
    try:
        return model.model_validate_json(read_bytes(path))
    except ValidationError as error:
        field, message = first_problem(error)
        where = f"{path}: field {field!r}" if field else f"{path}"
        raise CompatbenchError(f"{where}: {message}") from None
