"""Scanners of the layouts that cards name: each gives a listing of a dataset's images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt

from compatbench.data.cards.sources import (
    ClassFoldersSource,
    CoopSplitSource,
    FgvcSource,
    OnDisk,
    ParquetSource,
    WebdatasetSource,
)
from compatbench.data.images.dataset_files import (
    BrokenImages,
    WrongClasses,
    inside,
    read_json,
    read_lines,
    reading,
)
from compatbench.data.images.source import SPLITS, ImageSource
from compatbench.data.layouts.containers import hub_class_names, open_container
from compatbench.data.layouts.listing import (
    CLASS_NAMES,
    Classes,
    Listing,
    check_inside,
    make_frame,
    open_images,
)
from compatbench.errors import CompatbenchError
from compatbench.messages import count

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
Rows = list[tuple[str, Any, str]]  # path, label, split


def open_layout(folder: Path, card: OnDisk, classes: Classes) -> ImageSource:
    """The images of a dataset that lies as its card says; none is opened."""
    scan: Callable[[Path, Any, Classes], Listing] = SCANNERS[getattr(card, "kind", "")]
    return open_images(scan(folder, card, classes), classes, folder)


def list_folder(folder: Path) -> list[str]:
    """What is in a folder, sorted by code point, which no language setting changes.

    What is hidden is left out.
    """
    with reading(folder):
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def is_image(name: str) -> bool:
    """Whether a file has the ending of an image."""
    return name.lower().endswith(EXTENSIONS)


def scan_class_folders(folder: Path, card: ClassFoldersSource, classes: Classes) -> Listing:
    """The images in a split's class folders, class by class, each sorted by name.

    CoOp lists a folder in whatever order the file system gives; here the order, and with it
    a draw, is the same on every machine.
    """
    path = inside(folder, CLASS_NAMES)
    if classes.ids != classes.names and path.exists():
        # Lines of a folder and a name, of all of ImageNet also beside a variant of fewer classes.
        lines = [line for line in read_lines(path) if line.partition(" ")[0] in classes.ids]
        ids = zip(classes.ids, classes.names, strict=True)
        classes.check(lines, path, [f"{name} {title}" for name, title in ids])
    # CoOp keeps ImageNet's train/ and val/ in images/; torchvision, Kaggle and others do not.
    places = [inside(folder, place) for place in (card.images, *card.elsewhere)]
    base = next((place for place in places if place.is_dir()), folder)
    rows: Rows = []
    for split in SPLITS:
        if place := getattr(card, split):
            root = inside(folder, base, place)
            _check_folders(root, classes)
            for name in classes.folders:
                files = list_folder(inside(folder, root, name))
                files = [file for file in files if is_image(file) and file.isprintable()]
                rows += [(f"{place}/{name}/{file}", name, split) for file in files]
    return Listing("class folders", base, make_frame(rows))


def _check_folders(root: Path, classes: Classes) -> None:
    entries = list_folder(root)
    there = {name for name in entries if os.path.isdir(root / name)}
    if entries and not there:
        what = f"{len(entries)} files and no class folders"
        raise BrokenImages(f"{root} holds {what}; sort them into folders (see docs/datasets.md)")
    for name, title in zip(classes.folders, classes.names, strict=True):
        if name not in there:
            what = f"class '{title}' of '{classes.task}'"
            raise BrokenImages(f"{root} has no folder '{name}', {what}")
    if extra := sorted(there - {*classes.folders}):
        what = f"a folder '{extra[0]}' that is not a class of '{classes.task}'"
        raise BrokenImages(f"{root} has {what}")


SplitRows = list[tuple[Annotated[str, AfterValidator(check_inside)], NonNegativeInt, str]]


class SplitFile(BaseModel):
    """CoOp's (arXiv:2109.01134): rows of an image's path, its label and the class's name."""

    model_config = ConfigDict(strict=True)

    train: SplitRows
    val: SplitRows
    test: SplitRows


def scan_coop(folder: Path, card: CoopSplitSource, classes: Classes) -> Listing:
    """The images that a split file lists, in its order."""
    rows, names = read_split(path := inside(folder, card.split))
    classes.check(names, path)
    return Listing("a split file", inside(folder, card.images), make_frame(rows))


def read_split(path: Path) -> tuple[Rows, list[str]]:
    """The rows of CoOp's split file, and the class names in label order."""
    splits: dict[str, SplitRows] = dict(read_json(path, SplitFile))
    classes = sorted({(label, name) for split in SPLITS for _, label, name in splits[split]})
    if not classes:
        raise CompatbenchError(f"{path} lists no image")
    for number, (label, name) in enumerate(classes):
        if label < number:
            raise WrongClasses(f"{path}: label {label} is both {classes[label][1]!r} and {name!r}")
        if label > number:
            raise WrongClasses(f"{path}: no image has label {number}, but some have {label}")
    rows = [(image, label, split) for split in SPLITS for image, label, _ in splits[split]]
    return rows, [name for _, name in classes]


def scan_fgvc(folder: Path, card: FgvcSource, classes: Classes) -> Listing:
    """FGVC-Aircraft (arXiv:1306.5151), whose text files CoOp reads unchanged.

    A line such as ``1025794 707-320`` has an image's number and its variant.
    """
    variants = read_lines(path := inside(folder, "variants.txt"))
    classes.check(variants, path)
    labels = {name: label for label, name in enumerate(variants)}
    rows: Rows = []
    for split in SPLITS:
        for line in read_lines(path := inside(folder, f"images_variant_{split}.txt")):
            image, _, variant = line.partition(" ")
            if not (image.isascii() and image.isdigit()) or variant.strip() not in labels:
                wanted = "a line holds an image's number and one of variants.txt"
                raise CompatbenchError(f"{path}: {wanted}, not {line!r}")
            rows.append((f"{image}.jpg", labels[variant.strip()], split))
    return Listing("text files", inside(folder, card.images), make_frame(rows))


def scan_webdataset(folder: Path, card: WebdatasetSource, classes: Classes) -> Listing:
    """Shards as CLIP_benchmark publishes them, each split with their number beside them."""
    if (names := inside(folder, CLASS_NAMES)).exists():
        classes.check(read_lines(names), names, exact=False)
    shards: dict[str, str] = {}
    for split in SPLITS:
        if place := getattr(card, split):
            number = " ".join(read_lines(path := inside(folder, place, "nshards.txt")))
            if not re.fullmatch("[0-9]{1,9}", number):
                raise CompatbenchError(f"{path}: it holds the number of shards")
            shards |= {f"{place}/{shard}.tar": split for shard in range(int(number))}
    return scan_containers(folder, shards, "tar shard")


def scan_parquet(folder: Path, card: ParquetSource, classes: Classes) -> Listing:
    """Parquet files of the Hub's kind, file by file and row by row."""
    files: dict[str, str] = {}
    for split in SPLITS:
        if pattern := getattr(card, split):
            if not (paths := sorted(folder.glob(pattern))):
                raise BrokenImages(f"{folder} has no file '{pattern}'; see docs/datasets.md")
            files |= {path.relative_to(folder).as_posix(): split for path in paths}
    listing = scan_containers(folder, files, "parquet file", classes)
    if listing.notes:
        raise WrongClasses(f"{folder}: {listing.notes[0]}; name other files on the card")
    return listing


def scan_containers(
    folder: Path,
    files: Mapping[str, str],
    noun: str,
    classes: Classes | None = None,
) -> Listing:
    """The images in shards or parquet files whose splits are known, in their order.

    A note names a file without labels. Names of labels that a parquet file or the Hub's page has
    are compared with ``classes``.
    """
    rows: Rows = []
    listing = Listing(count(len(files), noun), folder, make_frame(()))
    page = hub_class_names(folder)
    for name, split in files.items():
        images, names = open_container(folder, name)
        if all(label in (None, -1) for _, label in images):
            listing.notes.append(f"{name} has no labels and is skipped")
            continue
        if (names := names or page) and classes is not None:
            classes.check(names, folder / name, exact=False)
        listing.names |= {str(label): title for label, title in enumerate(names)}
        for image, label in images:
            if label in (None, -1) or not str(label).isprintable():
                raise WrongClasses(f"{folder / image.id}: label {label!r} is not a class's name")
            listing.stored[image.id] = image
            rows.append((image.id, label, split))
    listing.frame = make_frame(rows)
    return listing


SCANNERS: dict[str, Callable[[Path, Any, Classes], Listing]] = {
    "class-folders": scan_class_folders,
    "coop-split": scan_coop,
    "fgvc": scan_fgvc,
    "webdataset": scan_webdataset,
    "parquet": scan_parquet,
}
