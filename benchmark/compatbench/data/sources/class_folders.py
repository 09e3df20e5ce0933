"""Folders of classes: ImageNet, its variants, and what anybody has sorted so."""

from __future__ import annotations

import os
from pathlib import Path

from compatbench.data.cards.sources import ClassFoldersSource
from compatbench.data.classes import Classes
from compatbench.data.image_files import FolderListing, ImageFiles
from compatbench.data.images import SPLITS, FileMissing, WrongClasses
from compatbench.errors import CompatbenchError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
# CoOp's list of ImageNet's names, which it wants beside the images of ImageNet and its variants.
CLASS_NAMES = "classnames.txt"


def read_class_folders(folder: Path, card: ClassFoldersSource, classes: Classes) -> ImageFiles:
    """The images in a split's class folders, class by class, each sorted by name.

    Where CoOp lists a folder in the order that the file system happens to give, the order
    here, and with it a draw, is the same on every machine.

    Raises:
        CompatbenchError: a folder is missing or cannot be read, or the class folders are not
            those of the card.
    """
    if classes.ids != classes.names:
        _check_class_names(folder / CLASS_NAMES, classes)
    base = folder
    # CoOp keeps ImageNet's train/ and val/ in images/; torchvision and others do not.
    if card.images and (folder / card.images).is_dir():
        base = folder / card.images
    places = {split: getattr(card, split) for split in SPLITS}
    return ImageFiles(
        base,
        {split: _list_split(base, place, classes) for split, place in places.items() if place},
    )


def _list_split(base: Path, place: str, classes: Classes) -> FolderListing:
    root = base / place
    found, loose = _list_folders(root)
    known = set(classes.folders)
    for label, name in enumerate(classes.folders):
        if name not in found:
            if loose and not found:
                raise WrongClasses(
                    f"{root} holds {loose} files and no class folders; sort them into folders "
                    "(docs/datasets.md tells how)"
                )
            raise WrongClasses(
                f"{root} has no folder '{name}', class '{classes.names[label]}' of '{classes.task}'"
            )
    if extra := sorted(found - known):
        raise WrongClasses(f"{root} has a folder '{extra[0]}' that is no class of '{classes.task}'")
    return FolderListing(
        [
            (f"{place}/{name}", label, _list_images(root / name))
            for label, name in enumerate(classes.folders)
        ]
    )


def _list_folders(root: Path) -> tuple[set[str], int]:
    """The names of the folders in a folder, hidden ones apart, and how many files it has."""
    folders, files = set(), 0
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.add(entry.name)
                else:
                    files += 1
    except FileNotFoundError:
        raise FileMissing(f"folder {root} is missing", root) from None
    except OSError as error:
        raise CompatbenchError(f"folder {root} cannot be read: {error.strerror}") from None
    return folders, files


def _list_images(folder: Path) -> list[str]:
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise CompatbenchError(f"folder {folder} cannot be read: {error.strerror}") from None
    # Sorted by code point, not by the rules of some language.
    return sorted(
        name
        for name in names
        if name.lower().endswith(EXTENSIONS) and name[0] != "." and name.isprintable()
    )


def _check_class_names(path: Path, classes: Classes) -> None:
    """Holds CoOp's ``<folder> <name>`` lines, where there are any, against the card.

    Raises:
        CompatbenchError: the file cannot be read.
        WrongClasses: its names or their order are not the card's.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise CompatbenchError(f"{path} cannot be read: {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    pairs = [(folder, name.strip()) for folder, _, name in (x.partition(" ") for x in lines)]
    expected = list(zip(classes.ids, classes.names, strict=True))
    # The file lists all of ImageNet, also beside a variant of fewer classes.
    ours = set(classes.ids)
    kept = [pair for pair in pairs if pair[0] in ours]
    classes.check_count(len(kept), path)
    for label, (found, wanted) in enumerate(zip(kept, expected, strict=True)):
        if found != wanted:
            raise WrongClasses(
                f"{path}: label {label} is {' '.join(found)}, on the card of '{classes.task}' it "
                f"is {' '.join(wanted)}"
            )
