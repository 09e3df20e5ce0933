"""Scanners of the layouts that cards name: each returns a listing of a dataset's images."""

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
    """Return the images of a dataset in the layout of its card; none is opened."""
    scan: Callable[[Path, Any, Classes], Listing] = SCANNERS[getattr(card, "kind", "")]
    listing = scan(folder, card, classes)
    return open_images(listing, classes, folder)


def list_folder(folder: Path) -> list[str]:
    """Return the names in a folder that are not hidden, sorted by code point.

    This order does not depend on the language settings.
    """
    with reading(folder):
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def is_image(name: str) -> bool:
    """Return True if a file has the ending of an image."""
    return name.lower().endswith(EXTENSIONS)


def scan_class_folders(folder: Path, card: ClassFoldersSource, classes: Classes) -> Listing:
    """Return the images in the class folders of each split, class by class, sorted by name.

    CoOp lists a folder in the order of the file system. Here the order, and with it a draw, is the
    same on every machine.
    """
    _check_class_names(folder, classes)
    # CoOp keeps ImageNet's train/ and val/ in images/; torchvision, Kaggle and others do not.
    places = [inside(folder, place) for place in (card.images, *card.elsewhere)]
    existing = [place for place in places if place.is_dir()]
    base = existing[0] if existing else folder
    rows: Rows = []
    for split in SPLITS:
        place = getattr(card, split)
        if not place:
            continue
        root = inside(folder, base, place)
        _check_folders(root, classes)
        for name in classes.folders:
            for file in list_folder(inside(folder, root, name)):
                if is_image(file) and file.isprintable():
                    rows.append((f"{place}/{name}/{file}", name, split))
    return Listing("class folders", base, make_frame(rows))


def _check_class_names(folder: Path, classes: Classes) -> None:
    """Compare the classes with the dataset's list of folders and names, if it has one."""
    path = inside(folder, CLASS_NAMES)
    if classes.ids == classes.names or not path.exists():
        return
    # A variant may have fewer classes than the list, which is then that of all of ImageNet.
    lines = []
    for line in read_lines(path):
        identifier, _, _ = line.partition(" ")
        if identifier in classes.ids:
            lines.append(line)
    expected = []
    for identifier, title in zip(classes.ids, classes.names, strict=True):
        expected.append(f"{identifier} {title}")
    classes.check(lines, path, expected)


def _check_folders(root: Path, classes: Classes) -> None:
    """Raise an error unless the folders in ``root`` are exactly those of the classes."""
    entries = list_folder(root)
    folders = {name for name in entries if os.path.isdir(root / name)}
    if entries and not folders:
        problem = f"{root} holds {len(entries)} files and no class folders"
        raise BrokenImages(f"{problem}; sort them into folders (see docs/datasets.md)")
    for name, title in zip(classes.folders, classes.names, strict=True):
        if name not in folders:
            problem = f"{root} has no folder '{name}', class '{title}' of '{classes.task}'"
            raise BrokenImages(problem)
    others = sorted(folders - {*classes.folders})
    if others:
        problem = f"{root} has a folder '{others[0]}' that is not a class of '{classes.task}'"
        raise BrokenImages(problem)


SplitRows = list[tuple[Annotated[str, AfterValidator(check_inside)], NonNegativeInt, str]]


class SplitFile(BaseModel):
    """CoOp's split file (arXiv:2109.01134): rows of an image's path, label and class name."""

    model_config = ConfigDict(strict=True)

    train: SplitRows
    val: SplitRows
    test: SplitRows


def scan_coop(folder: Path, card: CoopSplitSource, classes: Classes) -> Listing:
    """Return the images of a split file, in its order."""
    path = inside(folder, card.split)
    rows, names = read_split(path)
    classes.check(names, path)
    return Listing("a split file", inside(folder, card.images), make_frame(rows))


def read_split(path: Path) -> tuple[Rows, list[str]]:
    """Return the rows of CoOp's split file, and the class names in label order.

    Raises:
        CompatbenchError: there is no image, a label has two names, or a label has no image.
    """
    splits: dict[str, SplitRows] = dict(read_json(path, SplitFile))
    rows: Rows = []
    named_labels = set()
    for split in SPLITS:
        for image, label, name in splits[split]:
            rows.append((image, label, split))
            named_labels.add((label, name))
    classes = sorted(named_labels)
    if not classes:
        raise CompatbenchError(f"{path} lists no image")
    for number, (label, name) in enumerate(classes):
        if label < number:
            raise WrongClasses(f"{path}: label {label} is both {classes[label][1]!r} and {name!r}")
        if label > number:
            raise WrongClasses(f"{path}: no image has label {number}, but some have {label}")
    return rows, [name for _, name in classes]


def scan_fgvc(folder: Path, card: FgvcSource, classes: Classes) -> Listing:
    """Return the images of FGVC-Aircraft (arXiv:1306.5151), from its own text files, as CoOp does.

    A line such as ``1025794 707-320`` has an image's number and its variant.
    """
    variants_file = inside(folder, "variants.txt")
    variants = read_lines(variants_file)
    classes.check(variants, variants_file)
    labels = {name: label for label, name in enumerate(variants)}
    rows: Rows = []
    for split in SPLITS:
        path = inside(folder, f"images_variant_{split}.txt")
        for line in read_lines(path):
            image, _, variant = line.partition(" ")
            variant = variant.strip()
            is_number = image.isascii() and image.isdigit()
            if not is_number or variant not in labels:
                rule = "a line holds an image's number and one of variants.txt"
                raise CompatbenchError(f"{path}: {rule}, not {line!r}")
            rows.append((f"{image}.jpg", labels[variant], split))
    return Listing("text files", inside(folder, card.images), make_frame(rows))


def scan_webdataset(folder: Path, card: WebdatasetSource, classes: Classes) -> Listing:
    """Return the images of shards as CLIP_benchmark publishes them, with a file of their number."""
    names = inside(folder, CLASS_NAMES)
    if names.exists():
        classes.check(read_lines(names), names, exact=False)
    shards: dict[str, str] = {}
    for split in SPLITS:
        place = getattr(card, split)
        if not place:
            continue
        path = inside(folder, place, "nshards.txt")
        number = " ".join(read_lines(path))
        if not re.fullmatch("[0-9]{1,9}", number):
            raise CompatbenchError(
                f"{path}: it must contain the number of shards, and nothing else"
            )
        for shard in range(int(number)):
            shards[f"{place}/{shard}.tar"] = split
    return scan_containers(folder, shards, "tar shard")


def scan_parquet(folder: Path, card: ParquetSource, classes: Classes) -> Listing:
    """Return the images of parquet files as on the Hub, file by file and row by row."""
    files: dict[str, str] = {}
    for split in SPLITS:
        pattern = getattr(card, split)
        if not pattern:
            continue
        paths = sorted(folder.glob(pattern))
        if not paths:
            raise BrokenImages(f"{folder} has no file '{pattern}'; see docs/datasets.md")
        for path in paths:
            files[path.relative_to(folder).as_posix()] = split
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
    """Return the images in shards or parquet files whose splits are known, in their order.

    A note names each file without labels, which is skipped. If a parquet file or the Hub's page has
    names of labels, they are compared with ``classes``.
    """
    rows: Rows = []
    listing = Listing(count(len(files), noun), folder, make_frame(()))
    page = hub_class_names(folder)
    for name, split in files.items():
        images, names = open_container(folder, name)
        if all(label in (None, -1) for _, label in images):
            listing.notes.append(f"{name} has no labels and is skipped")
            continue
        names = names or page
        if names and classes is not None:
            classes.check(names, folder / name, exact=False)
        for label, title in enumerate(names):
            listing.names[str(label)] = title
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
