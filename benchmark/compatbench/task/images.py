"""What every source of images offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image


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

    def fingerprint(self) -> str:
        """Hash of everything that decides the images and labels."""
        ...

    def image(self, sample: Any) -> Image.Image:
        """The image of a sample, RGB."""
        ...
