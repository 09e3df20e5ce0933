"""Images, their classes and views: what every source offers, and how its files are read."""

from __future__ import annotations

import copy
import io
import math
import os
import stat
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image
from pydantic import BaseModel, ValidationError

from compatbench.data.rand_augment import rand_augment
from compatbench.engine_version import ENGINE_VERSION
from compatbench.errors import CompatbenchError, first_problem
from compatbench.files.hashes import sha256_bytes, sha256_json
from compatbench.files.sizes import format_bytes

SPLITS = ("train", "val", "test")
CLASS_NAMES = "classnames.txt"  # a list of the names, in label order, beside the images
MOST_BYTES = 1 << 30  # of a file that is read whole, and of an image in a shard
PART = 64  # images that a thread decodes one after the other
MOST_PIXELS = 100_000_000  # of an image: 300 MB as RGB
# Others have no place in a dataset; Pillow runs Ghostscript for one of them.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
Model = TypeVar("Model", bound=BaseModel)


class DataMissing(CompatbenchError):
    """A task's images are not on this machine, or not where they are looked for."""


class BrokenImages(CompatbenchError):
    """Images or lists of a task are on this machine and cannot be used; they cost its results."""


class WrongClasses(BrokenImages):
    """The classes on the disk are not the card's, or not in its order."""


@dataclass(frozen=True)
class Labels:
    """All that a module may know of a task when it is attached.

    Attributes:
        names: natural class names; label c is ``names[c]``.
        templates: with ``{}`` for the name; the first is the zero-shot one.
        teacher_template: the prompt that distilling methods pull towards.
        descriptions: texts of each class, for methods whose card says that they need them, if
            the task has any.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    teacher_template: str
    descriptions: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def fill(self, template: str | None = None) -> tuple[str, ...]:
        """The template, by default the first, filled with every class name."""
        template = template or self.templates[0]
        return tuple(template.format(name) for name in self.names)


@dataclass(frozen=True)
class Classes:
    """What a source must know of a task's classes, in label order."""

    task: str
    names: tuple[str, ...]  # as prompts write them
    ids: tuple[str, ...]  # as the card's ``folders`` has them; the names, if it has none
    folders: tuple[str, ...]  # on the disk

    def check(
        self, found: Sequence[str], where: Path, expected: Sequence[str] = (), exact: bool = True
    ) -> None:
        """Compares names in label order with those expected, by default the card's.

        If not ``exact``, names may be others, and only their order counts if they are not.
        """
        expected = expected or self.names
        if len(found) != len(expected):
            raise WrongClasses(
                f"{where}: {len(found)} classes, the card of '{self.task}' has {len(expected)}"
            )
        theirs, ours = list(map(_words, found)), list(map(_words, expected))
        permuted = sorted(theirs) == sorted(ours)
        for label, name in enumerate(found):
            if theirs[label] != ours[label] and (exact or permuted):
                raise WrongClasses(
                    f"{where}: label {label} is {name!r}, on the card of '{self.task}' it is "
                    f"'{expected[label]}'{' (the same names in another order)' if permuted else ''}"
                    "; take the dataset's own file, or correct the card"
                )


def _words(name: str) -> list[str]:
    """A name's words, whatever joins, orders and capitalises them."""
    return sorted(name.replace("_", " ").casefold().split())


@dataclass(frozen=True, slots=True)
class Sample:
    """One image of a task: an identity that never changes, and its label."""

    id: str
    label: int  # -1 in a task without classes


@dataclass(frozen=True, slots=True)
class Member(Sample):
    """One image in a tar file: ``size`` bytes from ``start``."""

    shard: Path
    start: int
    size: int
    text: tuple[int, int] | None = None  # likewise, of the captions beside it


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
            raise unreadable(base, FileNotFoundError())
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
        return sample.size if isinstance(sample, Member) else self._size(self.base / sample.id)

    def content(self, sample: Any) -> bytes:
        """The file of an image, undecoded."""
        path, part = self.base / sample.id, (0, -1)
        if isinstance(sample, Member):
            path, part = sample.shard, (sample.start, sample.size)
        self._size(path)
        return read_bytes(path, *part)

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
                if image.width * image.height > MOST_PIXELS:
                    raise ValueError(f"it has {image.width} × {image.height} pixels, too many")
                return image.convert("RGB")
        except Image.UnidentifiedImageError:
            reason = "no image format that is known"
        except Exception as error:  # the decoders raise anything on a damaged file
            reason = (str(error) or type(error).__name__).splitlines()[0]
        what = f"cannot be decoded ({reason})" if content else "is empty"
        raise BrokenImages(f"image {self.base / sample.id} {what}; fetch it again")

    def without_lists(self) -> ImageSource:
        """A copy that knows no sample, which can read images, and is small to send."""
        found = copy.copy(self)
        found.samples, found._sizes = {}, {}
        return found

    def find_broken(self) -> list[str]:
        """Decodes every image, side by side; what is wrong with each that cannot be."""

        def decode(samples: Sequence[Any]) -> list[str]:
            errors = []
            for sample in samples:
                try:
                    self.image(sample)
                except CompatbenchError as error:
                    errors.append(str(error))
            return errors

        samples = [sample for split in SPLITS for sample in self.samples[split]]
        parts = [samples[i : i + PART] for i in range(0, len(samples), PART)]
        with ThreadPoolExecutor(self.decoders) as pool:  # decoders let other threads run
            return [why for errors in pool.map(decode, parts) for why in errors]


def unreadable(path: Path, error: Exception) -> BrokenImages:
    """What to raise when a dataset's file or folder could not be read."""
    if isinstance(error, FileNotFoundError):
        return BrokenImages(f"{path} is missing; see docs/datasets.md")
    return BrokenImages(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")


def inside(folder: Path, *parts: str | Path) -> Path:
    """A path below a dataset's folder; refused if links lead out of the folder."""
    path = folder.joinpath(*parts)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        what = f"{path} is a link out of the dataset's folder {folder}"
        raise CompatbenchError(f"{what}; put what it leads to in its place, see docs/datasets.md")
    return path


def size_of(path: Path) -> int:
    """The bytes of a plain file; a pipe would be waited for."""
    try:
        found = os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise unreadable(path, ValueError("it is not a plain file"))
    return found.st_size


def read_bytes(path: Path, start: int = 0, size: int = -1) -> bytes:
    """The content of a dataset's file, or a part of it; never more than ``MOST_BYTES``."""
    try:
        if (size_of(path) - start if size < 0 else size) > MOST_BYTES:
            raise ValueError(f"it is larger than {format_bytes(MOST_BYTES)}")
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)
    except (OSError, ValueError) as error:
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
        field, message = first_problem(error)
        where = f"{path}: field {field!r}" if field else f"{path}"
        raise CompatbenchError(f"{where}: {message}") from None


@dataclass(frozen=True)
class View:
    """The plain view of a training image, its mirror image, or a seeded augmentation of it."""

    number: int = 0  # 0 is the plain view; 1, 2, ... are augmentations
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the area that a random crop keeps
    flip: bool = True  # whether half the augmentations are mirrored
    mirror: bool = False  # whether the plain view is
    augmentation: Literal["crop", "randaugment"] = "crop"  # the second neither crops nor mirrors

    @property
    def settings(self) -> list[object]:
        """What decides the view, as JSON."""
        if self.number == 0:
            return [0, "mirror"] if self.mirror else [0]
        if self.augmentation == "randaugment":
            return [self.number, self.augmentation]
        return [self.number, *self.crop_scale, self.flip]

    def apply(self, image: Image.Image, sample_id: str, size: int) -> Image.Image:
        """The view of an image, before the backbone's own preprocessing.

        An augmentation is ``size`` pixels wide and high. It depends on the image's identity and
        the view alone, so that an image looks the same in every few-shot draw that holds it.
        """
        if self.number == 0:
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.mirror else image
        seed = sha256_bytes(f"{sample_id}\n{self.number}".encode())
        generator = np.random.Generator(np.random.PCG64(int(seed[:16], 16)))
        if self.augmentation == "randaugment":
            resized = image.resize((size, size), Image.Resampling.BICUBIC)
            return rand_augment(resized, generator)
        box = _random_box(image.size, self.crop_scale, generator)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
        if self.flip and generator.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image


def _random_box(
    size: tuple[int, int], scale: tuple[float, float], generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """A crop as in torchvision's RandomResizedCrop: a random area, ratio 3/4 to 4/3."""
    width, height = size
    for _ in range(10):
        area = width * height * generator.uniform(*scale)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(generator.integers(0, width - w + 1))
            top = int(generator.integers(0, height - h + 1))
            return left, top, left + w, top + h
    side = min(size)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
