"""CoOp's layout (arXiv:2109.01134): a folder of images and one JSON file that splits them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from compatbench.data.cards.task import CoopSplitSource
from compatbench.data.classes import Classes, names_by_label
from compatbench.data.images import SPLITS, ImageFiles, Sample, read_bytes
from compatbench.errors import CompatbenchError

FIX = "docs/datasets.md says where to get it"


def read_coop(folder: Path, card: CoopSplitSource, classes: Classes) -> ImageFiles:
    """The images that a split file lists, in its order.

    Raises:
        CompatbenchError: the file is missing or breaks its format, or its classes are not
            the card's.
    """
    path = folder / card.split
    samples, names = read_split(path)
    classes.check_names(names, path)
    return ImageFiles(folder / card.images if card.images else folder, samples)


def read_split(path: Path) -> tuple[dict[str, list[Sample]], list[str]]:
    """Reads ``{"train": [[path, label, name], ...], "val": ..., "test": ...}``.

    Returns:
        The samples by split, and the class names in label order.

    Raises:
        CompatbenchError: the file is missing or breaks its format.
    """
    try:
        content = json.loads(read_bytes(path, "split file", FIX))
    except (ValueError, RecursionError) as error:
        raise CompatbenchError(f"split file {path} cannot be read: {error}") from None
    if not isinstance(content, dict) or not all(
        isinstance(content.get(split), list) for split in SPLITS
    ):
        raise CompatbenchError(f"split file {path}: it holds lists 'train', 'val' and 'test'")
    rows = {split: list(_read_rows(path, split, content[split])) for split in SPLITS}
    names = names_by_label(
        ((sample.label, name) for split in SPLITS for sample, name in rows[split]), path
    )
    if not names:
        raise CompatbenchError(f"split file {path} lists no image")
    return {split: [sample for sample, _ in rows[split]] for split in SPLITS}, names


def _read_rows(path: Path, split: str, rows: list[Any]) -> Iterator[tuple[Sample, str]]:
    for number, row in enumerate(rows):
        where = f"split file {path}: {split}[{number}]"
        if not isinstance(row, list) or [type(part) for part in row] != [str, int, str]:
            raise CompatbenchError(f"{where}: an entry is [path, label, class name]")
        image, label, name = row
        if label < 0:
            raise CompatbenchError(f"{where}: label {label} is below 0")
        if not is_inside(image):
            raise CompatbenchError(f"{where}: path {image!r} leaves the dataset's folder")
        yield Sample(image, label), name


def is_inside(image: str) -> bool:
    """Whether a path with slashes stays below the folder that it is relative to."""
    if not image or "\0" in image or "\\" in image or not image.isprintable():
        return False
    parts = PurePosixPath(image).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and ":" not in parts[0]
