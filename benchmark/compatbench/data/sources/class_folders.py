"""Folders of classes: ImageNet, its variants, and anybody's own images."""

from __future__ import annotations

import os
from pathlib import Path

from compatbench.data.cards.task import ClassFoldersSource
from compatbench.data.classes import CLASS_NAMES, Classes
from compatbench.data.images import (
    SPLITS,
    FileMissing,
    ImageFiles,
    Sample,
    WrongClasses,
    read_lines,
)
from compatbench.errors import CompatbenchError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


def read_class_folders(folder: Path, card: ClassFoldersSource, classes: Classes) -> ImageFiles:
    """The images in a split's class folders, class by class, each sorted by name.

    CoOp lists a folder in whatever order the file system gives; here the order, and with it
    a draw, is the same on every machine.

    Raises:
        CompatbenchError: a folder is missing or cannot be read, or the class folders are not
            those of the card.
    """
    if classes.ids != classes.names and (folder / CLASS_NAMES).exists():
        _check_class_names(folder / CLASS_NAMES, classes)
    # CoOp keeps ImageNet's train/ and val/ in images/; torchvision and others do not.
    inner = folder / card.images if card.images else folder
    base = inner if inner.is_dir() else folder
    places = {split: getattr(card, split) for split in SPLITS}
    samples = {split: _list_split(base, place, classes) for split, place in places.items() if place}
    return ImageFiles(base, samples, listed=True)


def _list_split(base: Path, place: str, classes: Classes) -> list[Sample]:
    root = base / place
    entries = [name for name in _list_folder(root) if not name.startswith(".")]
    found = {name for name in entries if os.path.isdir(root / name)}
    if entries and not found:
        raise WrongClasses(
            f"{root} holds {len(entries)} files and no class folders; sort them into folders "
            "(see docs/datasets.md)"
        )
    for name, title in zip(classes.folders, classes.names, strict=True):
        if name not in found:
            raise WrongClasses(
                f"{root} has no folder '{name}', class '{title}' of '{classes.task}'"
            )
    if extra := sorted(found - set(classes.folders)):
        raise WrongClasses(f"{root} has a folder '{extra[0]}' that is no class of '{classes.task}'")
    return [
        Sample(f"{place}/{name}/{image}", label)
        for label, name in enumerate(classes.folders)
        for image in _list_images(root / name)
    ]


def _list_images(folder: Path) -> list[str]:
    # Sorted by code point, which no language setting changes.
    return sorted(
        name
        for name in _list_folder(folder)
        if name.lower().endswith(EXTENSIONS) and name[0] != "." and name.isprintable()
    )


def _list_folder(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        raise FileMissing(f"folder {folder} is missing", folder) from None
    except OSError as error:
        raise CompatbenchError(f"folder {folder} cannot be read: {error.strerror}") from None


def _check_class_names(path: Path, classes: Classes) -> None:
    """Compares CoOp's ``<folder> <name>`` lines, with which it ships ImageNet, with the card.

    Raises:
        CompatbenchError: the file cannot be read.
        WrongClasses: its names or their order are not the card's.
    """
    rows = (line.partition(" ") for line in read_lines(path) if line)
    # The file lists all of ImageNet, also beside a variant of fewer classes.
    known = set(classes.ids)
    found = [(folder, name.strip()) for folder, _, name in rows if folder in known]
    classes.check_count(len(found), path)
    expected = zip(classes.ids, classes.names, strict=True)
    for label, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        if row != wanted:
            raise WrongClasses(
                f"{path}: label {label} is {' '.join(row)}, on the card of '{classes.task}' it "
                f"is {' '.join(wanted)}"
            )
