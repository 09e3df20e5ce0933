"""Folders of classes: ImageNet, its variants, and anybody's own images."""

from __future__ import annotations

import os
from pathlib import Path

from compatbench.data.cards.task import ClassFoldersSource
from compatbench.data.images import (
    SPLITS,
    ImageFiles,
    Sample,
    WrongClasses,
    read_lines,
    unreadable,
)
from compatbench.data.labels import CLASS_NAMES, Classes

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")


def read_class_folders(folder: Path, card: ClassFoldersSource, classes: Classes) -> ImageFiles:
    """The images in a split's class folders, class by class, each sorted by name.

    CoOp lists a folder in whatever order the file system gives; here the order, and with it
    a draw, is the same on every machine.

    Raises:
        CompatbenchError: a folder is missing or cannot be read, or the class folders, or CoOp's
            list of their names beside them, are not those of the card.
    """
    path = folder / CLASS_NAMES
    if classes.ids != classes.names and path.exists():
        # Lines of a folder and a name, of all of ImageNet also beside a variant of fewer classes.
        found = [line for line in read_lines(path) if line.partition(" ")[0] in classes.ids]
        rows = zip(classes.ids, classes.names, strict=True)
        classes.check(found, path, [f"{folder} {name}" for folder, name in rows])
    # CoOp keeps ImageNet's train/ and val/ in images/; torchvision and others do not.
    inner = folder / card.images
    base = inner if inner.is_dir() else folder
    places = {split: getattr(card, split) for split in SPLITS}
    samples = {split: _list_split(base, place, classes) for split, place in places.items() if place}
    return ImageFiles(base, samples, listed=True)


def _list_split(base: Path, place: str, classes: Classes) -> list[Sample]:
    root = base / place
    entries = _list_folder(root)
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
        for image in _list_folder(root / name)
        if image.lower().endswith(EXTENSIONS) and image.isprintable()
    ]


def _list_folder(folder: Path) -> list[str]:
    """What is not hidden, sorted by code point, which no language setting changes."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from None
