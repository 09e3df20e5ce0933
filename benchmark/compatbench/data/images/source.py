"""Images of a task: the functions that every source of images has."""

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

from PIL import Image, ImageOps

from compatbench.data.images.dataset_files import BrokenImages, inside, read_bytes, size_of
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_json
from compatbench.messages import first_line

SPLITS = ("train", "val", "test")
PART = 1024  # images that are decoded between two reports of progress
MOST_PIXELS = 100_000_000  # of an image: 400 MB as RGB, and as much again while it is made
MOST_SIDE = 65_535  # as for a JPEG; each line of an image takes further memory
LARGE = 1 << 24  # pixels; larger images are decoded one after the other
_DECODING = Lock()
# Other formats do not belong in a dataset, and for one of them Pillow runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a task: its permanent identity and its label."""

    id: str
    label: int  # -1 where labels are hidden


class Stored(Sample):
    """One image inside another file, which can read itself."""

    __slots__ = ()
    size: int  # the bytes that represent its content in fingerprints

    @property
    def container(self) -> Path:
        """Return the file that it is in."""
        raise NotImplementedError

    def read(self) -> bytes:
        """Return the image's own bytes, undecoded."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Member(Stored):
    """One image in a tar file: ``size`` bytes from ``start``."""

    shard: Path
    start: int
    size: int

    @property
    def container(self) -> Path:
        return self.shard

    def read(self) -> bytes:
        return read_bytes(self.shard, self.start, self.size)


class _TooLarge(ValueError):
    """An image with more pixels than are read."""


class ImageSource:
    """The images of one task or variant, each opened only when it is needed.

    A sample's id is a path in ``base``; samples are in the order of the split file. No link
    may lead out of ``folder``, the dataset's folder, by default ``base``.
    """

    decoders: int | None = None  # threads for all images; None means one per core
    upright: bool = False  # True if images are turned as their EXIF data say
    # From the dataset's folder and files to their hashes, if fingerprints contain them.
    hash_files: Callable[[Path, Sequence[Path]], list[str]] | None = None

    def __init__(
        self, base: Path, samples: Mapping[str, Sequence[Any]], folder: Path | None = None
    ) -> None:
        if not base.is_dir():
            raise BrokenImages(f"{base} is missing; see docs/datasets.md")
        self.base = base
        self._folder = folder or base
        self._inside: set[Path] = set()  # folders that are known to be inside the dataset's
        self.samples: dict[Any, Sequence[Any]] = {}
        for split in SPLITS:
            self.samples[split] = samples.get(split, ())
        self._sizes: dict[str, int] = {}

    def check_files(self) -> None:
        """Look for every file; the error names the first one that is missing."""
        for split in SPLITS:
            for sample in self.samples[split]:
                self.size(sample)

    def size(self, sample: Any) -> int:
        """Return the bytes on the disk that represent an image's content in fingerprints."""
        if isinstance(sample, Stored):
            return sample.size
        return self._size(self.base / sample.id)

    def content(self, sample: Any) -> bytes:
        """Return the bytes of an image, undecoded."""
        if isinstance(sample, Stored):
            return sample.read()
        path = self.base / sample.id
        self._size(path)  # raises an error unless it is a plain file inside the dataset's folder
        return read_bytes(path)

    def _size(self, path: Path) -> int:
        """Return the bytes of an image's file; raise an error unless it is plain and inside."""
        if path.parent not in self._inside:
            self._inside.add(inside(self._folder, path.parent))
        if os.path.islink(path):
            inside(self._folder, path)
        return size_of(path)

    def fingerprint(self, samples: Sequence[Any]) -> str:
        """Return the hash of everything that decides these images and their order, except labels.

        For files these are their names and sizes in bytes. They are not read, so that 50,000
        images take a second, and each is looked at once. An image that was replaced by one of
        exactly the same size is not noticed, unless the source has ``hash_files``: then the
        content of each file counts, and every call looks at the files again.

        Raises:
            CompatbenchError: a file is missing.
        """
        for sample in samples:
            if sample.id not in self._sizes or self.hash_files is not None:
                self._sizes[sample.id] = self.size(sample)
        identities = [(sample.id, self._sizes[sample.id]) for sample in samples]
        facts = [identities, ENGINE_VERSION]
        if self.upright:
            facts.append("upright")
        if self.hash_files is not None:
            facts.append(self._hash(samples, self.hash_files))
        return sha256_json(facts)

    def _hash(
        self, samples: Sequence[Any], hash_files: Callable[[Path, Sequence[Path]], list[str]]
    ) -> list[str]:
        """Return the hash of the file of each image."""
        files = []
        for sample in samples:
            is_stored = isinstance(sample, Stored)
            files.append(sample.container if is_stored else self.base / sample.id)
        return hash_files(self._folder, files)

    def image(self, sample: Any) -> Image.Image:
        """Return the image of a sample, RGB.

        EXIF rotation is ignored, as in CoOp, unless the images are ``upright``.

        Raises:
            BrokenImages: the file is missing, damaged or not an image.
        """
        content = self.content(sample)
        try:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                pixels = image.width * image.height
                if pixels > MOST_PIXELS or max(image.size) > MOST_SIDE:
                    raise _TooLarge(f"{image.width:,} × {image.height:,} pixels")
                with _DECODING if pixels > LARGE else nullcontext():
                    # Pillow would cut values above 255: a scan of 16 bits would be mostly white.
                    if image.mode[0] in "IF" and max(image.getextrema()) > 255:  # type: ignore[type-var]
                        raise ValueError("it has more than 8 bits a pixel; save it with 8")
                    if self.upright:
                        ImageOps.exif_transpose(image, in_place=True)
                    return image.convert("RGB")
        except (_TooLarge, Image.DecompressionBombError) as error:
            raise BrokenImages(
                f"image {self.base / sample.id} is too large ({first_line(error)}), at most "
                f"{MOST_PIXELS:,} pixels are read; make it smaller"
            ) from None
        except Image.UnidentifiedImageError:
            reason = "unknown image format"
        except Exception as error:  # on a damaged file, decoders raise all kinds of errors
            reason = (str(error) or type(error).__name__).splitlines()[0]
        problem = f"cannot be decoded ({reason})" if content else "is empty"
        raise BrokenImages(f"image {self.base / sample.id} {problem}; fetch it again")

    def without_lists(self) -> ImageSource:
        """Return a copy without samples, which can read images and is small to send."""
        source = copy.copy(self)
        source.samples = {}
        source._sizes = {}
        return source

    def find_broken(
        self,
        samples: Sequence[Any] | None = None,
        progress: Callable[[int, int], object] = lambda done, total: None,
        look: Callable[[Any, Image.Image], object] = lambda sample, image: None,
    ) -> dict[str, str]:
        """Decode images, by default all, in threads. Return the problem of each one that fails.

        Args:
            samples: the images to decode.
            progress: called with the images that are done, and all.
            look: called with each sample and its image, in a thread.

        Returns:
            A line for each image that cannot be decoded, by its id.
        """

        def find_problem(sample: Any) -> str:
            try:
                look(sample, self.image(sample))
            except CompatbenchError as error:
                return str(error)
            return ""

        if samples is None:
            every_sample: list[Any] = []
            for split in SPLITS:
                every_sample += self.samples[split]
            samples = every_sample
        broken: dict[str, str] = {}
        with ThreadPoolExecutor(self.decoders) as pool:  # threads, since decoders release the GIL
            for start in range(0, len(samples), PART):
                progress(start, len(samples))
                part = samples[start : start + PART]
                for sample, problem in zip(part, pool.map(find_problem, part), strict=True):
                    if problem:
                        broken[sample.id] = problem
        return broken
