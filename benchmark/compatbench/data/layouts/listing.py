"""A listing: what every scanner of a layout gives, and how images are opened from it.

A path is that of a file below the listing's folder, or of what lies in one: ``shards/0.tar/0007``
is a member of a tar shard, ``data/train.parquet/7`` a row of a parquet file. All are read where
they lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from compatbench.data.images.dataset_files import BrokenImages, WrongClasses
from compatbench.data.images.source import SPLITS, ImageSource, Sample, Stored
from compatbench.data.layouts.containers import PARQUET, TAR, ParquetRow, open_container
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    import pandas as pd

CLASS_NAMES = "classnames.txt"  # a list of the names, in label order, beside the images
COLUMNS = ("path", "label", "split")


@dataclass(frozen=True)
class Classes:
    """What a reader must know of a task's classes, in label order."""

    task: str
    names: tuple[str, ...]  # as prompts write them
    ids: tuple[str, ...]  # as the card's ``folders`` has them; the names, if it has none
    folders: tuple[str, ...]  # on the disk

    def check(
        self,
        names: Sequence[str],
        where: Path,
        expected: Sequence[str] = (),
        *,
        exact: bool = True,
    ) -> None:
        """Compares names in label order with those expected, by default the card's.

        If not ``exact``, names may be others, and only their order counts if they are not.
        """
        expected = expected or self.names
        if len(names) != len(expected):
            raise WrongClasses(
                f"{where}: {len(names)} classes, the card of '{self.task}' has {len(expected)}"
            )
        theirs, ours = list(map(_words, names)), list(map(_words, expected))
        permuted = sorted(theirs) == sorted(ours)
        for label, name in enumerate(names):
            if theirs[label] != ours[label] and (exact or permuted):
                raise WrongClasses(
                    f"{where}: label {label} is {name!r}, on the card of '{self.task}' it is "
                    f"'{expected[label]}'{' (the same names in another order)' if permuted else ''}"
                    "; take the dataset's own file, or correct the card"
                )


def _words(name: str) -> list[str]:
    """A name's words, whatever joins, orders and capitalises them."""
    return sorted(name.replace("_", " ").casefold().split())


@dataclass
class Listing:
    """The images of a dataset, of which none was opened.

    ``frame`` has a row per image: ``path``; ``label``, a class's number or what the data calls the
    class, None for an image without; and ``split``, empty where nothing says what it is.
    """

    kind: str  # of layout, in words
    folder: Path  # that paths are relative to
    frame: pd.DataFrame
    table: Path | None = None  # the file that lists the images; the frame's index is its lines
    names: dict[str, str] = field(default_factory=dict)  # of labels, where the data has them
    notes: list[str] = field(default_factory=list)  # what a user should know, a line each
    templates: list[str] = field(default_factory=list)  # prompts that the data brings, with {}
    stored: dict[str, Stored] = field(default_factory=dict)  # images in other files, by path


def make_frame(rows: Iterable[tuple[str, str | int | None, str]]) -> pd.DataFrame:
    """The frame of rows of path, label and split."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def open_images(listing: Listing, classes: Classes, within: Path | None = None) -> ImageSource:
    """The images of a listing.

    Args:
        within: the folder of the dataset, which no link leaves; by default the listing's.

    Raises:
        WrongClasses: a label is none of the classes.
        CompatbenchError: a shard is broken, or does not have what is listed.
    """
    numbers: dict[Any, int] = dict(zip(classes.folders, range(len(classes.folders)), strict=True))
    numbers |= {number: number for number in numbers.values()} or {None: -1}
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    frame = listing.frame
    columns = frame["path"], frame["label"], frame["split"]
    for line, path, label, split in zip(frame.index, *columns, strict=True):
        if label not in numbers or split not in samples:
            where = f"{listing.table}:{line}" if listing.table else f"{listing.folder / path}"
            if label not in numbers:
                what = f"label {label!r} is not a class of '{classes.task}'"
                raise WrongClasses(f"{where}: {what}")
            what = f"split {split!r} of {path!r}: give it one of {', '.join(SPLITS)}"
            raise BrokenImages(f"{where}: {what}")
        if (stored := _find_stored(listing, path)) is None:
            samples[split].append(Sample(path, numbers[label]))
        else:
            samples[split].append(replace(stored, label=numbers[label]))
    source = ImageSource(listing.folder, samples, within)
    if any(isinstance(image, ParquetRow) for image in listing.stored.values()):
        source.decoders = 1  # a group of rows is read once for all of its images
    return source


def _find_stored(listing: Listing, path: str) -> Stored | None:
    """The image of a path in a shard or parquet file; None if the path is a file's."""
    if path in listing.stored or not (TAR in path or PARQUET in path):
        return listing.stored.get(path)
    for around in reversed(PurePosixPath(path).parents):
        if around.suffix in (TAR, PARQUET) and not (listing.folder / around).is_dir():
            images, _ = open_container(listing.folder, str(around), labelled=False)
            listing.stored |= {image.id: image for image, _ in images}
            if path not in listing.stored:
                what = f"{listing.folder / around} has no image {path!r}"
                raise CompatbenchError(f"{what}, see {listing.table}")
            return listing.stored[path]
    return None


def check_inside(path: str) -> str:
    """Refuses a path with slashes that leaves the folder that it is relative to."""
    parts = PurePosixPath(path).parts
    odd = not path.isprintable() or "\\" in path
    if odd or not parts or path.startswith("/") or ".." in parts or ":" in parts[0]:
        raise ValueError(f"path {path!r} leaves the dataset's folder")
    return path
