"""Images of a task: what every source of them offers."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from compatbench.data.images.dataset_files import BrokenImages, inside, read_bytes, size_of
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json

SPLITS = ("train", "val", "test")
PART = 1024  # images that are decoded between two reports of progress
MOST_PIXELS = 100_000_000  # of an image: 400 MB as RGB, and as much again while it is made
MOST_SIDE = 65_535  # as of a JPEG; each line of an image takes memory of its own
LARGE = 1 << 24  # pixels; such images are decoded one after the other
_DECODING = Lock()
# Others have no place in a dataset; Pillow runs Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a task: an identity that never changes, and its label."""

    id: str
    label: int  # -1 where labels are hidden


class Stored(Sample):
    """One image inside another file, which reads itself."""

    __slots__ = ()
    size: int  # what stands for its content in fingerprints, in bytes

    def read(self) -> bytes:
        """The image's own bytes, undecoded."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Member(Stored):
    """One image in a tar file: ``size`` bytes from ``start``."""

    shard: Path
    start: int
    size: int

    def read(self) -> bytes:
        return read_bytes(self.shard, self.start, self.size)


class ImageSource:
    """The images of one task or variant; none is opened before it is asked for.

    A sample's id is a path in ``base``; samples are in the order of the split file. No link
    may lead out of ``folder``, the dataset's, by default ``base``.
    """

    decoders: int | None = None  # threads for all images; None is by the cores

    def __init__(
        self, base: Path, samples: Mapping[str, Sequence[Any]], folder: Path | None = None
    ) -> None:
        if not base.is_dir():
            raise BrokenImages(f"{base} is missing; see docs/datasets.md")
        self.base = base
        self._folder = folder or base
        self._inside: set[Path] = set()  # folders that were found to be
        self.samples: dict[Any, Sequence[Any]] = {s: samples.get(s, ()) for s in SPLITS}
        self._sizes: dict[str, int] = {}

    def check_files(self) -> None:
        """Looks for every file; an error names the first that is not there."""
        for sample in (s for split in SPLITS for s in self.samples[split]):
            self.size(sample)

    def size(self, sample: Any) -> int:
        """What stands for an image's content in fingerprints: its bytes on the disk."""
        return sample.size if isinstance(sample, Stored) else self._size(self.base / sample.id)

    def content(self, sample: Any) -> bytes:
        """The file of an image, undecoded."""
        if isinstance(sample, Stored):
            return sample.read()
        self._size(path := self.base / sample.id)
        return read_bytes(path)

    def _size(self, path: Path) -> int:
        """The bytes of an image's file, which must be a plain one inside the dataset's folder."""
        if path.parent not in self._inside:
            self._inside.add(inside(self._folder, path.parent))
        return size_of(inside(self._folder, path) if os.path.islink(path) else path)

    def fingerprint(self, samples: Sequence[Any]) -> str:
        """Hash of everything that decides these images and their order, except labels.

        For files these are their names and sizes in bytes. They are not read, so that 50,000
        images take a second; an image that was replaced by one of exactly as many bytes is not
        noticed. A file that is missing is a ``CompatbenchError``.
        """
        for sample in samples:
            if sample.id not in self._sizes:
                self._sizes[sample.id] = self.size(sample)
        return sha256_json([[(s.id, self._sizes[s.id]) for s in samples], ENGINE_VERSION])

    def image(self, sample: Any) -> Image.Image:
        """The image of a sample, RGB; not rotated as EXIF says, since CoOp does not either.

        Raises ``BrokenImages`` for one that is missing, damaged or no image.
        """
        content = self.content(sample)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > MOST_PIXELS or max(image.size) > MOST_SIDE:
                    raise ValueError(f"it has {image.width} × {image.height} pixels, too many")
                with _DECODING if pixels > LARGE else nullcontext():
                    # Pillow would cut what is above 255: a scan of 16 bits is mostly white then.
                    if image.mode[0] in "IF" and max(image.getextrema()) > 255:  # type: ignore[type-var]
                        raise ValueError("it has more than 8 bits a pixel; save it with 8")
                    return image.convert("RGB")
        except Image.UnidentifiedImageError:
            reason = "no image format that is known"
        except Exception as error:  # the decoders raise anything on a damaged file
            reason = (str(error) or type(error).__name__).splitlines()[0]
        what = f"cannot be decoded ({reason})" if content else "is empty"
        raise BrokenImages(f"image {self.base / sample.id} {what}; fetch it again")

    def without_lists(self) -> ImageSource:
        """A copy that knows no sample, which can read images, and is small to send."""
        source = copy.copy(self)
        source.samples, source._sizes = {}, {}
        return source

    def find_broken(
        self,
        samples: Sequence[Any] | None = None,
        progress: Callable[[int, int], object] = lambda done, total: None,
    ) -> list[str]:
        """Decodes images, by default all, side by side; what is wrong with each that cannot be."""

        def find_problem(sample: Any) -> str:
            try:
                self.image(sample)
            except CompatbenchError as error:
                return str(error)
            return ""

        if samples is None:
            samples = [sample for split in SPLITS for sample in self.samples[split]]
        broken: list[str] = []
        with ThreadPoolExecutor(self.decoders) as pool:  # decoders let other threads run
            for start in range(0, len(samples), PART):
                progress(start, len(samples))
                broken += filter(None, pool.map(find_problem, samples[start : start + PART]))
        return broken
