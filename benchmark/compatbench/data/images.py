"""What every source of images offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        """Hash of everything that decides these images and their order, labels apart.

        Raises:
            CompatbenchError: a file is missing or damaged, as far as it was looked at.
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
    """A folder is there, but a file of it is not.

    Attributes:
        path: of the file.
    """

    def __init__(self, message: str, path: Any) -> None:
        super().__init__(message)
        self.path = path


class WrongClasses(CompatbenchError):
    """The classes on the disk are not the card's, or not in its order."""


def count_labels(samples: Sequence[Sample]) -> Counter[int]:
    """How many samples each label has."""
    counts = getattr(samples, "label_counts", None)
    return counts if counts is not None else Counter(sample.label for sample in samples)
