"""Images and their labels: what every source of images offers, and how files are read."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a task: an identity that never changes, and its label."""

    id: str
    label: int


class ImageSource:
    """The images of one task or variant. Nothing is opened before an image is asked for.

    Args:
        samples: by split (``train``, ``val``, ``test``), in the order of the split file.
    """

    def __init__(self, samples: Mapping[str, Sequence[Any]]) -> None:
        self.samples = {split: samples.get(split, ()) for split in SPLITS}

    def fingerprint(self, samples: Sequence[Any]) -> str:
        """Hash of everything that decides these images and their order, except labels.

        For files these are their names and sizes in bytes. They are not read, so that 50,000
        images take a second; an image that was replaced by one of exactly as many bytes is not
        noticed.

        Raises:
            CompatbenchError: a file is missing, or is found to be damaged.
        """
        return sha256_json([[(sample.id, self.size(sample)) for sample in samples], ENGINE_VERSION])

    def image(self, sample: Any) -> Image.Image:
        """The image of a sample, RGB.

        Raises:
            CompatbenchError: it is missing, damaged or no image.
        """
        content, where = self.content(sample)
        return decode_image(content, where)

    def size(self, sample: Any) -> int:
        """The size of an image's file in bytes."""
        raise NotImplementedError

    def content(self, sample: Any) -> tuple[bytes, str | Path]:
        """The bytes of an image's file, and its name for messages."""
        raise NotImplementedError


class ImageFiles(ImageSource):
    """Images that are files below a folder; a sample's id is its path there, with slashes.

    Args:
        listed: whether the samples were listed from the folder, so that all files exist.

    Raises:
        FileMissing: there is no folder ``base``.
    """

    def __init__(
        self, base: Path, samples: Mapping[str, Sequence[Sample]], listed: bool = False
    ) -> None:
        super().__init__(samples)
        if not base.is_dir():
            raise FileMissing(f"{base} is missing; it is the folder of the images", base)
        self.base = base
        self.listed = listed
        self._sizes: dict[str, int] = {}

    def first_missing(self) -> Path | None:
        """The first file of the splits that does not exist."""
        paths = (self.base / sample.id for split in SPLITS for sample in self.samples[split])
        return None if self.listed else next((p for p in paths if not p.is_file()), None)

    def size(self, sample: Sample) -> int:
        if sample.id not in self._sizes:
            path = self.base / sample.id
            try:
                self._sizes[sample.id] = os.stat(path).st_size
            except OSError as error:
                raise _unreadable(path, error, "image", FETCH) from None
        return self._sizes[sample.id]

    def content(self, sample: Sample) -> tuple[bytes, str | Path]:
        path = self.base / sample.id
        return read_bytes(path, "image", FETCH), path


class DataMissing(CompatbenchError):
    """A task's images are not on this machine, or not where they are looked for."""


class FileMissing(CompatbenchError):
    """A dataset's folder exists, but a file in it does not.

    Attributes:
        path: of the file.
    """

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


class WrongClasses(CompatbenchError):
    """The classes on the disk are not the card's, or not in its order."""


FETCH = "fetch it again"


def count_labels(samples: Sequence[Sample]) -> Counter[int]:
    """How many samples each label has."""
    return Counter(sample.label for sample in samples)


def read_bytes(path: Path, what: str = "file", fix: str = FETCH) -> bytes:
    """The content of a dataset's file.

    Args:
        what: what the file is, for messages: ``split file``.
        fix: what to do if it is missing.

    Raises:
        FileMissing: there is no such file.
        CompatbenchError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error, what, fix) from None


def _unreadable(path: Path, error: OSError, what: str, fix: str) -> CompatbenchError:
    if isinstance(error, FileNotFoundError):
        return FileMissing(f"{what} {path} is missing; {fix}", path)
    return CompatbenchError(f"{what} {path} cannot be read: {error.strerror}")


def read_lines(path: Path, what: str = "file", fix: str = FETCH) -> list[str]:
    """As ``read_bytes``, for UTF-8: all lines, without white space around them."""
    content = read_bytes(path, what, fix)
    try:
        return [line.strip() for line in content.decode("utf-8").split("\n")]
    except ValueError as error:
        raise CompatbenchError(f"{what} {path} cannot be read: {error}") from None


def decode_image(content: bytes, where: str | Path) -> Image.Image:
    """The image that a file's bytes hold, RGB.

    It is not rotated as EXIF says, since CoOp does not either.

    Args:
        where: the file's name, for messages.

    Raises:
        CompatbenchError: the bytes are damaged, cut short, or hold no image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.convert("RGB")
    except Image.UnidentifiedImageError:
        reason = "no image format that is known"
    except Exception as error:  # the decoders raise anything on a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0]
    what = f"cannot be decoded ({reason})" if content else "is empty"
    raise CompatbenchError(f"image {where} {what}; fetch it again")
