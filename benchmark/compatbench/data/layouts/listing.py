"""Listings, which all scanners of layouts return; lists of images; and how images are opened.

A path leads to a file below the listing's folder, or to an image within one: ``shards/0.tar/0007``
is a member of a tar shard, ``data/train.parquet/7`` a row of a parquet file. All are read in place.
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
# Usual names of the columns of a list and of the splits, in small letters.
_PATHS = "path file filename file_name filepath file_path image image_path img"
_LABELS = "label class classname class_name category target species"
_SPLITS = "split subset set partition"
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
}


@dataclass(frozen=True)
class Classes:
    """The facts about a task's classes that a reader needs, in label order."""

    task: str
    names: tuple[str, ...]  # as prompts write them
    ids: tuple[str, ...]  # as in the card's ``folders``; the names if it has none
    folders: tuple[str, ...]  # on the disk

    def check(
        self,
        names: Sequence[str],
        where: Path,
        expected: Sequence[str] = (),
        *,
        exact: bool = True,
    ) -> None:
        """Raise an error if names in label order are not the expected ones, by default the card's.

        If not ``exact``, other names are accepted, but not the same names in another order.
        """
        expected = expected or self.names
        if len(names) != len(expected):
            raise WrongClasses(
                f"{where}: {len(names)} classes, the card of '{self.task}' has {len(expected)}"
            )
        found_words = [_words(name) for name in names]
        expected_words = [_words(name) for name in expected]
        permuted = sorted(found_words) == sorted(expected_words)
        if not exact and not permuted:
            return
        hint = " (the same names in another order)" if permuted else ""
        for label, name in enumerate(names):
            if found_words[label] != expected_words[label]:
                raise WrongClasses(
                    f"{where}: label {label} is {name!r}, on the card of '{self.task}' it is "
                    f"'{expected[label]}'{hint}; take the dataset's own file, or correct the card"
                )


def _words(name: str) -> list[str]:
    """Return a name's words, sorted and without capitals, so that spellings compare equal."""
    return sorted(name.replace("_", " ").casefold().split())


@dataclass
class Listing:
    """The images of a dataset, of which none was opened.

    ``frame`` has a row per image with three columns. ``label`` is the number of a class or its name
    in the data, or None for an image without a label. ``split`` is empty if it is unknown.
    """

    kind: str  # of the layout, in words
    folder: Path  # the start of relative paths
    frame: pd.DataFrame
    table: Path | None = None  # the file that lists the images; the frame's index is its lines
    names: dict[str, str] = field(default_factory=dict)  # of labels, if the data has them
    notes: list[str] = field(default_factory=list)  # facts that a user should know, a line each
    problems: list[str] = field(default_factory=list)  # what is wrong with images, a line each
    templates: list[str] = field(default_factory=list)  # prompts in the data, with {}
    stored: dict[str, Stored] = field(default_factory=dict)  # images in other files, by path


def make_frame(rows: Iterable[tuple[str, str | int | None, str]]) -> pd.DataFrame:
    """Return the frame of rows of path, label and split."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)


def open_images(listing: Listing, classes: Classes, within: Path | None = None) -> ImageSource:
    """Return the images of a listing.

    Args:
        within: the folder of the dataset, which no link may leave; by default the listing's.

    Raises:
        WrongClasses: a label is none of the classes.
        CompatbenchError: a shard is broken, or lacks a listed image.
    """
    numbers: dict[Any, int] = {folder: number for number, folder in enumerate(classes.folders)}
    if numbers:
        numbers |= {number: number for number in numbers.values()}  # labels may be numbers too
    else:
        numbers = {None: -1}  # without classes, images have no labels
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    frame = listing.frame
    columns = (frame["path"], frame["label"], frame["split"])
    for line, path, label, split in zip(frame.index, *columns, strict=True):
        if label not in numbers or split not in samples:
            where = f"{listing.table}:{line}" if listing.table else f"{listing.folder / path}"
            if label not in numbers:
                problem = f"label {label!r} is not a class of '{classes.task}'"
                raise WrongClasses(f"{where}: {problem}")
            problem = f"split {split!r} of {path!r}: give it one of {', '.join(SPLITS)}"
            raise BrokenImages(f"{where}: {problem}")
        sample = _find_stored(listing, path) or Sample(path, -1)
        samples[split].append(replace(sample, label=numbers[label]))
    source = ImageSource(listing.folder, samples, within)
    if any(isinstance(image, RowImage) for image in listing.stored.values()):
        source.decoders = 1  # so that a group of rows is read once for all of its images
    return source


def _find_stored(listing: Listing, path: str) -> Stored | None:
    """Return the image of a path within a container; None if the path is that of a file."""
    if path in listing.stored:
        return listing.stored[path]
    if not any(ending in path for ending in CONTAINERS):
        return None
    for parent in reversed(PurePosixPath(path).parents):
        if parent.suffix in CONTAINERS and not (listing.folder / parent).is_dir():
            images, _ = open_container(listing.folder, str(parent), labelled=False)
            for image, _ in images:
                listing.stored[image.id] = image
            if path not in listing.stored:
                problem = f"{listing.folder / parent} has no image {path!r}"
                raise CompatbenchError(f"{problem}, see {listing.table}")
            return listing.stored[path]
    return None


def check_inside(path: str) -> str:
    """Return a path with slashes; raise ``ValueError`` if it leaves the folder it starts in."""
    parts = PurePosixPath(path).parts
    if not parts or not path.isprintable() or "\\" in path:
        leaves = True
    else:
        leaves = path.startswith("/") or ".." in parts or ":" in parts[0]
    if leaves:
        raise ValueError(f"path {path!r} leaves the dataset's folder")
    return path


def scan_list(path: Path, folder: Path) -> Listing:
    """Return the rows of a list of images below ``folder``; a column of splits is optional.

    Raises:
        CompatbenchError: a broken list, a path that leaves the folder, a label without a name, or
            an unknown split.
    """
    table = read_csv(path)
    columns = choose_columns(table.columns)
    if columns is None:
        raise CompatbenchError(
            f"{path}:1: the columns are {','.join(table.columns)}; name the column of images "
            "'path' and the column of their classes 'label'"
        )
    _, _, split_column = columns
    frame = table.reindex(columns=[*columns], fill_value="")
    frame = frame.set_axis([*COLUMNS], axis=1)
    splits = SPLIT_NAMES if split_column else {"": ""}
    rows = zip(frame.index, frame["path"], frame["label"], frame["split"], strict=True)
    for line, image, label, split in rows:
        try:
            check_inside(image)
        except ValueError as error:
            fix = f"make it one below {folder}"
            raise CompatbenchError(f"{path}:{line}: {error}; {fix}") from None
        if not label or not label.isprintable():
            problem = f"label {label!r} of {image!r} is not a class's name"
            raise CompatbenchError(f"{path}:{line}: {problem}")
        if split.lower() not in splits:
            problem = f"split {split!r} is none of {', '.join(splits)}"
            raise CompatbenchError(f"{path}:{line}: {problem}")
    frame["split"] = [splits[split.lower()] for split in frame["split"]]
    return Listing(f"the list {path.name}", folder, frame, table=path)


def choose_columns(names: Iterable[str]) -> tuple[str, str, str] | None:
    """Return the columns of paths, labels and splits (or ''); None without paths or labels."""
    by_name = {name.lower(): name for name in names}

    def find(known: str) -> str:
        for name in known.split():
            if name in by_name:
                return by_name[name]
        return ""

    path = find(_PATHS)
    label = find(_LABELS)
    split = find(_SPLITS)
    if not path or not label:
        return None
    return path, label, split


def read_csv(path: Path, max_lines: int | None = None) -> pd.DataFrame:
    """Return the text of a CSV or TSV file, or of lines of JSON; the index has each row's line.

    Args:
        max_lines: lines to read; by default all.

    Raises:
        CompatbenchError: no text, no rows, or a row that is longer than the first.
    """
    import pandas as pd

    content = read_bytes(path)
    with reading(path, TypeError, AttributeError):
        if path.suffix == ".jsonl":  # the format of the Hub's folders of images
            table = _read_json_lines(content, max_lines)
        else:
            table = pd.read_csv(
                io.BytesIO(content),
                sep=_choose_separator(path, content),
                header=None,
                dtype=str,
                keep_default_na=False,
                nrows=max_lines,
                encoding="utf-8-sig",
                skip_blank_lines=False,
            )
    table = table.set_axis(table.index + 1)
    table = table.apply(lambda column: column.str.strip())
    header = [*table.iloc[0]]
    rows = table.iloc[1:]
    is_blank = (rows == "").all(axis=1)
    rows = rows[~is_blank].set_axis(header, axis=1)
    if rows.empty:
        raise CompatbenchError(f"{path} lists no image")
    return rows.loc[:, ~rows.columns.duplicated(keep="last")]


def _choose_separator(path: Path, content: bytes) -> str:
    if path.suffix == ".tsv":
        return "\t"
    first_line = content.partition(b"\n")[0]
    # In countries with a decimal comma, spreadsheets write semicolons.
    if b";" in first_line and b"," not in first_line:
        return ";"
    return ","


def _read_json_lines(content: bytes, max_lines: int | None) -> pd.DataFrame:
    """Return a table like that of a CSV file; its row of names has the index −1."""
    import pandas as pd

    lines = []
    header: dict[str, None] = {}  # the names of all lines, in the order of their first appearance
    for text in content.decode().splitlines()[:max_lines]:
        line = json.loads(text or "{}")
        lines.append(line)
        header |= dict.fromkeys(line)
    rows = [list(header)]
    for line in lines:
        values = [line.get(name) for name in header]
        rows.append(["" if value is None else str(value) for value in values])
    table = pd.DataFrame(rows)
    table.index -= 1  # no line of the file contains the names
    return table
