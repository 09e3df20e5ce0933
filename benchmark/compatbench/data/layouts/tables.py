"""Images that a CSV table lists: files, members of tar shards, and rows of parquet files.

A row has the image's ``path`` below the folder of the images, its ``label`` (one of the card's
``folders``, or else of its ``classes``) and its ``split``. ``shards/0.tar/0007`` is a member of
a tar shard, ``data/train.parquet/7`` a row of a parquet file. All are read where they lie.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from compatbench.data.cards.sources import ParquetSource
from compatbench.data.images.dataset_files import (
    BrokenImages,
    WrongClasses,
    inside,
    read_bytes,
    size_of,
    unreadable,
)
from compatbench.data.images.source import SPLITS, ImageSource, Sample
from compatbench.data.layouts.classes import Classes
from compatbench.data.layouts.layouts import check_inside, read_shard
from compatbench.data.layouts.parquet import (
    hub_class_names,
    read_parquet_image,
    read_parquet_labels,
)
from compatbench.errors import CompatbenchError

TAR, PARQUET = ".tar", ".parquet"
COLUMNS = ("path", "label", "split")


class Row(NamedTuple):
    """One line of a table; ``split`` is empty where nothing says what it is."""

    path: str
    label: str
    split: str = ""


@dataclass(frozen=True, slots=True)
class ParquetRow(Sample):
    """One image in a parquet file, in row ``number``."""

    file: Path
    number: int


class TableImages(ImageSource):
    """The images of a table."""

    def size(self, sample: Any) -> int:
        """Of a row of a parquet file, the bytes of the whole file, which is not decoded."""
        return size_of(sample.file) if isinstance(sample, ParquetRow) else super().size(sample)

    def content(self, sample: Any) -> bytes:
        if isinstance(sample, ParquetRow):
            return read_parquet_image(sample.file, sample.number)
        return super().content(sample)


def read_table(folder: Path, path: Path, classes: Classes) -> ImageSource:
    """The images that the table at ``path`` lists, in its order; ``folder`` is theirs.

    Raises:
        CompatbenchError: a broken table, a path that leaves the folder, or a broken shard.
        WrongClasses: a label that is not a class.
    """
    rows = []
    for line, values in read_csv(path):
        if tuple(values) != COLUMNS:
            raise CompatbenchError(f"{path}:1: its columns must be {','.join(COLUMNS)}")
        row = Row(**values)
        try:
            check_inside(row.path)
        except ValueError as error:
            raise CompatbenchError(f"{path}:{line}: {error}") from None
        if row.split not in SPLITS:
            raise CompatbenchError(f"{path}:{line}: split {row.split!r} is none of {SPLITS}")
        if row.label not in classes.folders:
            what = f"label {row.label!r} is not a class of '{classes.task}'"
            raise WrongClasses(f"{path}:{line}: {what}")
        rows.append(row)
    return open_table(folder, rows, classes.folders, path)


def read_parquet(folder: Path, card: ParquetSource, classes: Classes) -> ImageSource:
    """The images of parquet files of the Hub's kind, file by file and row by row.

    Raises:
        BrokenImages: no file of a split, or one that cannot be read.
        WrongClasses: classes in another order than the card's, or a label that is none of them.
    """
    rows = []
    told = hub_class_names(folder)
    for split in SPLITS:
        if (pattern := getattr(card, split)) is None:
            continue
        if not (paths := sorted(folder.glob(pattern))):
            raise BrokenImages(f"{folder} has no file '{pattern}'; see docs/datasets.md")
        for path in paths:
            labels, names = read_parquet_labels(inside(folder, path))
            if names := names or told:
                classes.check(names, path, exact=False)
            name = path.relative_to(folder).as_posix()
            known = dict(enumerate(classes.folders)) | {one: one for one in classes.folders}
            for number, label in enumerate(labels):
                if label not in known:
                    what = f"label {label!r} is not a class of '{classes.task}'"
                    raise WrongClasses(f"{path}: row {number}: {what}")
                rows.append(Row(f"{name}/{number}", known[label], split))
    return open_table(folder, rows, classes.folders)


def open_table(
    folder: Path, rows: Iterable[Row], labels: Sequence[str], path: Path | None = None
) -> ImageSource:
    """The images of rows; ``path`` is the table's, for errors."""
    numbers = {label: number for number, label in enumerate(labels)} or {"": -1}
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    members: dict[str, dict[str, Any]] = {}
    for image, name, split in rows:
        place, inner = split_path(folder, image)
        label = numbers[name]
        if place.endswith(TAR):
            if place not in members:
                members[place] = {one.id: one for one in read_shard(folder, place, bool(labels))}
            if (one := members[place].get(image)) is None:
                raise CompatbenchError(f"{folder / place} has no image {inner!r}, see {path}")
            sample: Sample = replace(one, label=label)
        elif place.endswith(PARQUET):
            if not re.fullmatch("[0-9]{1,12}", inner):
                raise CompatbenchError(f"{path}: {image!r} is not a row of a parquet file")
            sample = ParquetRow(image, label, inside(folder, place), int(inner))
        else:
            sample = Sample(image, label)
        samples[split].append(sample)
    source = TableImages(folder, samples)
    if any(isinstance(one, ParquetRow) for split in samples.values() for one in split):
        source.decoders = 1  # a group of rows is read once for all of its images
    return source


def split_path(folder: Path, image: str) -> tuple[str, str]:
    """Of an image in a shard or parquet file, that file and what is in it; else '' and the path."""
    parts = PurePosixPath(image).parts
    for number, part in enumerate(parts[:-1], 1):
        if part.endswith((TAR, PARQUET)) and not folder.joinpath(*parts[:number]).is_dir():
            return "/".join(parts[:number]), "/".join(parts[number:])
    return "", image


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, or a TSV file, and the line of each.

    Raises:
        CompatbenchError: no text, no rows, or a row of another length.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
        reader = csv.reader(
            io.StringIO(text, newline=""), "excel-tab" if path.suffix == ".tsv" else "excel"
        )
        header = [name.strip() for name in next(reader, [])]
        empty = True
        for values in reader:
            if not any(values):
                continue
            where = f"{path}:{reader.line_num}"
            if len(values) != len(header):
                raise CompatbenchError(
                    f"{where}: {len(values)} fields, but line 1 names {len(header)} columns"
                )
            row = dict(zip(header, (value.strip() for value in values), strict=True))
            empty = False
            yield reader.line_num, row
    except (ValueError, csv.Error) as error:
        raise unreadable(path, error) from None
    if empty:
        raise CompatbenchError(f"{path} lists no image")


def write_csv(rows: Iterable[Row]) -> str:
    """A table's text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()
