"""Images and their labels: what every source of images offers, and how a file is decoded."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from compatbench.errors import CompatbenchError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Sample:
    """One image of a task: an identity that never changes, and its label."""

    id: str
    label: int


class ImageSource(Protocol):
    """The images of one task or variant.

    Attributes:
        samples: by split (``train``, ``val``, ``test``), in the order of the split file.
    """

    @property
    def samples(self) -> Mapping[str, Sequence[Any]]: ...

    def fingerprint(self, samples: Sequence[Any]) -> str:
        """Hash of everything that decides these images and their order, except labels.

        Raises:
            CompatbenchError: a file is missing, or is found to be damaged.
        """
        ...

    def image(self, sample: Any) -> Image.Image:
        """The image of a sample, RGB.

        Raises:
            CompatbenchError: it is missing, damaged or no image.
        """
        ...


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


def count_labels(samples: Sequence[Sample]) -> Counter[int]:
    """How many samples each label has."""
    counts = getattr(samples, "label_counts", None)
    return counts if counts is not None else Counter(sample.label for sample in samples)


def read_bytes(path: Path, what: str = "", fix: str = "") -> bytes:
    """The content of a dataset's file.

    Args:
        what: what the file is, for messages: ``split file``.
        fix: what to do if it is missing.

    Raises:
        FileMissing: there is no such file.
        CompatbenchError: it cannot be read.
    """
    name = f"{what} {path}".strip()
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileMissing(f"{name} is missing{fix and '; '}{fix}", path) from None
    except OSError as error:
        raise CompatbenchError(f"{name} cannot be read: {error.strerror}") from None


def read_text(path: Path, what: str = "", fix: str = "") -> str:
    """As ``read_bytes``, for UTF-8; lines end with ``\\n``."""
    content = read_bytes(path, what, fix)
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except ValueError as error:
        raise CompatbenchError(f"{what} {path} cannot be read: {error}".strip()) from None


def read_lines(path: Path, what: str = "", fix: str = "") -> list[str]:
    """As ``read_text``: all lines, without white space around them."""
    return [line.strip() for line in read_text(path, what, fix).split("\n")]


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
