"""Images and their labels: what every source of images offers, and how files are read."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from pydantic import BaseModel, ValidationError

from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json

SPLITS = ("train", "val", "test")
Model = TypeVar("Model", bound=BaseModel)


class DataMissing(CompatbenchError):
    """A task's images are not on this machine, or not where they are looked for."""


class WrongClasses(CompatbenchError):
    """The classes on the disk are not the card's, or not in its order."""


class FileMissing(CompatbenchError):
    """A dataset's folder exists, but the file or folder ``path`` in it does not."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is missing; see docs/datasets.md")
        self.path = path


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a task: an identity that never changes, and its label."""

    id: str
    label: int


@dataclass(frozen=True, slots=True)
class Member(Sample):
    """One image in a tar file: ``size`` bytes from ``start``."""

    shard: Path
    start: int
    size: int


class ImageSource:
    """The images of one task or variant. Nothing is opened before an image is asked for.

    Args:
        base: the folder that a sample's id is a path in, with slashes.
        samples: by split (``train``, ``val``, ``test``), in the order of the split file.
    """

    def __init__(self, base: Path, samples: Mapping[str, Sequence[Any]]) -> None:
        if not base.is_dir():
            raise FileMissing(base)
        self.base = base
        self.samples: dict[Any, Sequence[Any]] = {s: samples.get(s, ()) for s in SPLITS}
        self._sizes: dict[str, int] = {}

    def check_files(self) -> None:
        """Looks for every file, and raises ``FileMissing`` for the first that is not there."""
        for path in (self.base / s.id for split in SPLITS for s in self.samples[split]):
            if not path.is_file():
                raise FileMissing(path)

    def fingerprint(self, samples: Sequence[Any]) -> str:
        """Hash of everything that decides these images and their order, except labels.

        For files these are their names and sizes in bytes. They are not read, so that 50,000
        images take a second; an image that was replaced by one of exactly as many bytes is not
        noticed. A file that is missing is a ``CompatbenchError``.
        """
        for sample in samples:
            if sample.id not in self._sizes:
                path = self.base / sample.id
                try:
                    size = sample.size if isinstance(sample, Member) else os.stat(path).st_size
                except OSError as error:
                    raise unreadable(path, error) from None
                self._sizes[sample.id] = size
        return sha256_json([[(s.id, self._sizes[s.id]) for s in samples], ENGINE_VERSION])

    def image(self, sample: Any) -> Image.Image:
        """The image of a sample, RGB; not rotated as EXIF says, since CoOp does not either.

        One that is missing, damaged or no image is a ``CompatbenchError``.
        """
        path, part = self.base / sample.id, (0, -1)
        if isinstance(sample, Member):
            path, part = sample.shard, (sample.start, sample.size)
        content = read_bytes(path, *part)
        try:
            with Image.open(io.BytesIO(content)) as image:
                return image.convert("RGB")
        except Image.UnidentifiedImageError:
            reason = "no image format that is known"
        except Exception as error:  # the decoders raise anything on a damaged file
            reason = (str(error) or type(error).__name__).splitlines()[0]
        what = f"cannot be decoded ({reason})" if content else "is empty"
        raise CompatbenchError(f"image {self.base / sample.id} {what}; fetch it again")


def unreadable(path: Path, error: Exception) -> CompatbenchError:
    """What to raise when a dataset's file or folder could not be read."""
    if isinstance(error, FileNotFoundError):
        return FileMissing(path)
    return CompatbenchError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def read_bytes(path: Path, start: int = 0, size: int = -1) -> bytes:
    """The content of a dataset's file, or a part of it."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise unreadable(path, error) from None


def read_lines(path: Path) -> list[str]:
    """As ``read_bytes``, for UTF-8: the lines that are not empty, without space around them."""
    try:
        lines = [line.strip() for line in read_bytes(path).decode("utf-8").split("\n")]
    except ValueError as error:
        raise unreadable(path, error) from None
    return [line for line in lines if line]


def read_json(path: Path, model: type[Model]) -> Model:
    """As ``read_bytes``, for JSON of a model; an error names the file and the field."""
    try:
        return model.model_validate_json(read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = f"field {'.'.join(map(str, first['loc']))!r}: " if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        raise CompatbenchError(f"{path}: {field}{message}") from None
