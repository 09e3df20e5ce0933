"""Layouts of datasets: class folders, CoOp's split files, FGVC's text files, tar shards."""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt

from compatbench.data.cards.sources import (
    ClassFoldersSource,
    CoopSplitSource,
    FgvcSource,
    WebdatasetSource,
)
from compatbench.data.images.dataset_files import (
    BrokenImages,
    WrongClasses,
    inside,
    read_json,
    read_lines,
    size_of,
    unreadable,
)
from compatbench.data.images.source import SPLITS, ImageSource, Member, Sample
from compatbench.data.layouts.classes import CLASS_NAMES, Classes
from compatbench.errors import CompatbenchError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
LABEL_BYTES = 9  # in a tar shard


def read_class_folders(folder: Path, card: ClassFoldersSource, classes: Classes) -> ImageSource:
    """The images in a split's class folders, class by class, each sorted by name.

    CoOp lists a folder in whatever order the file system gives; here the order, and with it
    a draw, is the same on every machine.
    """
    path = inside(folder, CLASS_NAMES)
    if classes.ids != classes.names and path.exists():
        # Lines of a folder and a name, of all of ImageNet also beside a variant of fewer classes.
        found = [line for line in read_lines(path) if line.partition(" ")[0] in classes.ids]
        rows = zip(classes.ids, classes.names, strict=True)
        classes.check(found, path, [f"{folder} {name}" for folder, name in rows])
    # CoOp keeps ImageNet's train/ and val/ in images/; torchvision, Kaggle and others do not.
    places = [inside(folder, place) for place in (card.images, *card.elsewhere)]
    base = next((place for place in places if place.is_dir()), folder)
    samples = {
        split: _list_split(folder, base, place, classes)
        for split in SPLITS
        if (place := getattr(card, split))
    }
    return ImageSource(base, samples, folder)


def _list_split(folder: Path, base: Path, place: str, classes: Classes) -> list[Sample]:
    root = inside(folder, base, place)
    entries = _list_folder(root)
    found = {name for name in entries if os.path.isdir(root / name)}
    if entries and not found:
        what = f"{len(entries)} files and no class folders"
        raise BrokenImages(f"{root} holds {what}; sort them into folders (see docs/datasets.md)")
    for name, title in zip(classes.folders, classes.names, strict=True):
        if name not in found:
            what = f"class '{title}' of '{classes.task}'"
            raise BrokenImages(f"{root} has no folder '{name}', {what}")
    if extra := sorted(found - set(classes.folders)):
        what = f"a folder '{extra[0]}' that is not a class of '{classes.task}'"
        raise BrokenImages(f"{root} has {what}")
    return [
        Sample(f"{place}/{name}/{image}", label)
        for label, name in enumerate(classes.folders)
        for image in _list_folder(inside(folder, root, name))
        if image.lower().endswith(EXTENSIONS) and image.isprintable()
    ]


def list_images(folder: Path, most: int | None = None) -> list[str]:
    """Images of ``--images``, at any depth, sorted; of more than ``most`` as many, evenly.

    Raises:
        CompatbenchError: no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise CompatbenchError(f"--images: there is no folder {folder}")
    files = sorted(
        one.relative_to(folder).as_posix()
        for one in folder.rglob("*")
        if one.suffix.lower() in EXTENSIONS and not one.name.startswith(".") and one.is_file()
    )
    if not files:
        raise CompatbenchError(f"--images: {folder} holds no image ({', '.join(EXTENSIONS)})")
    count = min(most or len(files), len(files))
    return [files[i * len(files) // count] for i in range(count)]


def _list_folder(folder: Path) -> list[str]:
    """What is not hidden, sorted by code point, which no language setting changes."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from None


def check_inside(image: str) -> str:
    """Refuses a path with slashes that leaves the folder that it is relative to."""
    parts = PurePosixPath(image).parts
    odd = not image.isprintable() or "\\" in image
    if odd or not parts or image.startswith("/") or ".." in parts or ":" in parts[0]:
        raise ValueError(f"path {image!r} leaves the dataset's folder")
    return image


Rows = list[tuple[Annotated[str, AfterValidator(check_inside)], NonNegativeInt, str]]


class SplitFile(BaseModel):
    """CoOp's (arXiv:2109.01134): rows of an image's path, its label and the class's name."""

    model_config = ConfigDict(strict=True)

    train: Rows
    val: Rows
    test: Rows


def read_coop(folder: Path, card: CoopSplitSource, classes: Classes) -> ImageSource:
    """The images that a split file lists, in its order."""
    samples, names = read_split(path := inside(folder, card.split))
    classes.check(names, path)
    return ImageSource(inside(folder, card.images), samples, folder)


def read_split(path: Path) -> tuple[dict[str, list[Sample]], list[str]]:
    """The samples of CoOp's split file by split, and the class names in label order."""
    rows: dict[str, Rows] = dict(read_json(path, SplitFile))
    classes = sorted({(label, name) for split in SPLITS for _, label, name in rows[split]})
    if not classes:
        raise CompatbenchError(f"{path} lists no image")
    for number, (label, name) in enumerate(classes):
        if label < number:
            both = f"both {classes[number - 1][1]!r} and {name!r}"
            raise WrongClasses(f"{path}: label {label} is {both}")
        if label > number:
            raise WrongClasses(f"{path}: no image has label {number}, but some have {label}")
    samples = {split: [Sample(image, label) for image, label, _ in rows[split]] for split in SPLITS}
    return samples, [name for _, name in classes]


def read_fgvc(folder: Path, card: FgvcSource, classes: Classes) -> ImageSource:
    """FGVC-Aircraft (arXiv:1306.5151), whose text files CoOp reads unchanged."""
    variants = read_lines(path := inside(folder, "variants.txt"))
    classes.check(variants, path)
    paths = {split: inside(folder, f"images_variant_{split}.txt") for split in SPLITS}
    samples = {split: read_variants(path, variants) for split, path in paths.items()}
    return ImageSource(inside(folder, card.images), samples, folder)


def read_variants(path: Path, variants: Sequence[str]) -> list[Sample]:
    """The images of lines such as ``1025794 707-320``: an image's number and its variant."""
    labels = {name: label for label, name in enumerate(variants)}
    samples = []
    for line in read_lines(path):
        image, _, variant = line.partition(" ")
        if not (image.isascii() and image.isdigit()):
            wanted = "a line holds an image's number and its variant"
            raise CompatbenchError(f"{path}: {wanted}, not {line!r}")
        if (variant := variant.strip()) not in labels:
            raise CompatbenchError(f"{path}: {line!r}: {variant!r} is not in variants.txt")
        samples.append(Sample(f"{image}.jpg", labels[variant]))
    return samples


def read_webdataset(folder: Path, card: WebdatasetSource, classes: Classes) -> ImageSource:
    """Images that are read from their place in uncompressed tar files.

    None is extracted, links are refused, and names only tell images apart.
    """
    if (names := inside(folder, CLASS_NAMES)).exists():
        classes.check(read_lines(names), names, exact=False)
    samples: dict[str, list[Member]] = {}
    for split in SPLITS:
        if place := getattr(card, split):
            listing = inside(folder, place, "nshards.txt")
            text = " ".join(read_lines(listing))
            if not re.fullmatch("[0-9]{1,9}", text):
                raise CompatbenchError(f"{listing}: it holds the number of shards")
            names, labelled = (f"{place}/{n}.tar" for n in range(int(text))), bool(classes.names)
            samples[split] = [one for name in names for one in read_shard(folder, name, labelled)]
    return ImageSource(folder, samples)


def read_shard(folder: Path, name: str, labelled: bool = True) -> Iterator[Member]:
    """The images of one shard, in its order; their identities begin with its name."""
    path = inside(folder, name)
    total = size_of(path)
    places: dict[str, dict[str, tuple[int, int]]] = {"image": {}, "txt": {}}
    labels: dict[str, int] = {}
    try:
        # "r:" takes plain tars only: a compressed one would have to be unpacked.
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                # A negative size would be read without end.
                if not 0 <= member.size <= total - member.offset_data or member.issparse():
                    raise ValueError(f"{member.name!r} is not as large as it says")
                stem, _, extension = member.name.rpartition(".")
                if extension not in ("webp", "png", "jpg", "jpeg", "cls", "txt"):
                    continue
                file = tar.extractfile(member) if member.isreg() else None
                if file is None or not member.name.isprintable():
                    raise CompatbenchError(f"{path}: {member.name!r} is not a plain file")
                if extension == "cls":
                    labels[stem] = int(file.read(LABEL_BYTES))
                else:
                    kind = "txt" if extension == "txt" else "image"
                    places[kind][stem] = member.offset_data, member.size
    except (tarfile.TarError, OSError, ValueError, MemoryError) as error:
        raise unreadable(path, error) from None
    images = places["image"]
    for stem in images.keys() | labels.keys():
        if stem not in images or labels.get(stem, -1 if labelled else 0) < 0:
            raise CompatbenchError(f"{path}: {stem!r} is not an image with a label")
    for stem, (start, size) in images.items():
        label = labels[stem] if labelled else -1
        yield Member(f"{name}/{stem}", label, path, start, size, places["txt"].get(stem))


READERS: dict[str, Callable[..., ImageSource]] = {
    "class-folders": read_class_folders,
    "coop-split": read_coop,
    "fgvc": read_fgvc,
    "webdataset": read_webdataset,
}
