"""A listing: what every scanner of a layout gives; lists of images; how images are opened.

A path is that of a file below the listing's folder, or of what lies in one: ``shards/0.tar/0007``
is a member of a tar shard, ``data/train.parquet/7`` a row of a parquet file. All are read
where they lie.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from compatbench.data.images.dataset_files import BrokenImages, WrongClasses, read_bytes, reading
from compatbench.data.images.source import SPLITS, ImageSource, Sample, Stored
from compatbench.data.layouts.containers import CONTAINERS, RowImage, open_container
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    import pandas as pd

CLASS_NAMES = "classnames.txt"  # a list of the names, in label order, beside the images
COLUMNS = ("path", "label", "split")
# What people call the columns of a list and the splits, in small letters.
_PATHS = "path file filename file_name filepath file_path image image_path img"
_LABELS = "label class classname class_name category target species"
_SPLITS = "split subset set partition"
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val"}
SPLIT_NAMES |= {"validation": "val", "dev": "val", "test": "test", "testing": "test"}
SPLIT_NAMES |= {"eval": "test"}


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
        sample = _find_stored(listing, path) or Sample(path, -1)
        samples[split].append(replace(sample, label=numbers[label]))
    source = ImageSource(listing.folder, samples, within)
    if any(isinstance(image, RowImage) for image in listing.stored.values()):
        source.decoders = 1  # a group of rows is read once for all of its images
    return source


def _find_stored(listing: Listing, path: str) -> Stored | None:
    """The image of a path in a shard or a file of rows; None if the path is a file's."""
    if path in listing.stored or not any(ending in path for ending in CONTAINERS):
        return listing.stored.get(path)
    for around in reversed(PurePosixPath(path).parents):
        if around.suffix in CONTAINERS and not (listing.folder / around).is_dir():
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


def scan_list(path: Path, folder: Path) -> Listing:
    """The rows of a list of images below ``folder``; a column of splits is not needed.

    Raises:
        CompatbenchError: a broken list, a path that leaves the folder, a label without a name, or
            an unknown split.
    """
    table = read_csv(path)
    if (columns := choose_columns(table.columns)) is None:
        raise CompatbenchError(
            f"{path}:1: the columns are {','.join(table.columns)}; call that of the images 'path' "
            "and that of their classes 'label'"
        )
    frame = table.reindex(columns=[*columns], fill_value="").set_axis([*COLUMNS], axis=1)
    splits = SPLIT_NAMES if columns[2] else {"": ""}
    rows = zip(frame.index, frame["path"], frame["label"], frame["split"], strict=True)
    for line, image, label, split in rows:
        try:
            check_inside(image)
        except ValueError as error:
            fix = f"make it one below {folder}"
            raise CompatbenchError(f"{path}:{line}: {error}; {fix}") from None
        if not label or not label.isprintable():
            what = f"label {label!r} of {image!r} is not a class's name"
            raise CompatbenchError(f"{path}:{line}: {what}")
        if split.lower() not in splits:
            what = f"split {split!r} is none of {', '.join(splits)}"
            raise CompatbenchError(f"{path}:{line}: {what}")
    frame["split"] = [splits[split.lower()] for split in frame["split"]]
    return Listing(f"the list {path.name}", folder, frame, table=path)


def choose_columns(names: Iterable[str]) -> tuple[str, str, str] | None:
    """The columns of paths, labels and splits (or ''); None if there are no paths or labels."""
    by_name = {name.lower(): name for name in names}
    path, label, split = (
        next((by_name[name] for name in known.split() if name in by_name), "")
        for known in (_PATHS, _LABELS, _SPLITS)
    )
    return (path, label, split) if path and label else None


def read_csv(path: Path, most: int | None = None) -> pd.DataFrame:
    """The text of a CSV or TSV file, or of lines of JSON; the index has the line of each row.

    Args:
        most: lines to read; by default all.

    Raises:
        CompatbenchError: no text, no rows, or a row that is longer than the first.
    """
    import pandas as pd

    options: Any = {"header": None, "dtype": str, "keep_default_na": False, "nrows": most}
    content = read_bytes(path)
    first = content.partition(b"\n")[0]
    # Where a comma is the decimal sign, spreadsheets write semicolons.
    separator = ";" if b";" in first and b"," not in first else ","
    options["sep"] = "\t" if path.suffix == ".tsv" else separator
    with reading(path, TypeError, AttributeError):
        if path.suffix == ".jsonl":  # as the Hub's folders of images have it
            lines = [json.loads(line or "{}") for line in content.decode().splitlines()[:most]]
            header = dict.fromkeys(name for line in lines for name in line)
            texts = [[str(line.get(name, "")) for name in header] for line in lines]
            table = pd.DataFrame([[*header], *texts])
            table.index -= 1
        else:
            table = pd.read_csv(
                io.BytesIO(content), encoding="utf-8-sig", skip_blank_lines=False, **options
            )
    table = table.set_axis(table.index + 1).apply(lambda column: column.str.strip())
    header, rows = [*table.iloc[0]], table.iloc[1:]
    rows = rows[(rows != "").any(axis=1)].set_axis(header, axis=1)
    if rows.empty:
        raise CompatbenchError(f"{path} lists no image")
    return rows.loc[:, ~rows.columns.duplicated(keep="last")]
