"""Images that a CSV table lists: files, members of tar shards, and rows of parquet files.

A row has the image's ``path`` below the folder of the images, its ``label`` (one of the card's
``folders``, or else of its ``classes``) and its ``split``. ``shards/0.tar/0007`` is a member of
a tar shard, ``data/train.parquet/7`` a row of a parquet file. All are read where they lie.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from compatbench.data.images import (
    MOST_BYTES,
    SPLITS,
    Classes,
    ImageSource,
    Sample,
    WrongClasses,
    inside,
    read_bytes,
    size_of,
    unreadable,
)
from compatbench.data.sources.layouts import check_inside, read_shard
from compatbench.errors import CompatbenchError, first_line

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
        WrongClasses: a label that is no class.
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
            what = f"label {row.label!r} is no class of '{classes.task}'"
            raise WrongClasses(f"{path}:{line}: {what}")
        rows.append(row)
    return open_table(folder, rows, classes.folders, path)


def open_table(
    folder: Path, rows: Iterable[Row], labels: Sequence[str], path: Path | None = None
) -> ImageSource:
    """The images of rows; ``path`` is the table's, for errors."""
    numbers = {label: number for number, label in enumerate(labels)}
    samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    members: dict[str, dict[str, Any]] = {}
    for image, name, split in rows:
        place, inner = split_path(folder, image)
        label = numbers[name]
        if place.endswith(TAR):
            if place not in members:
                members[place] = {one.id: one for one in read_shard(folder, place)}
            if (one := members[place].get(image)) is None:
                raise CompatbenchError(f"{folder / place} has no image {inner!r}, see {path}")
            sample: Sample = type(one)(image, label, one.shard, one.start, one.size)
        elif place.endswith(PARQUET):
            if not re.fullmatch("[0-9]{1,12}", inner):
                raise CompatbenchError(f"{path}: {image!r} is no row of a parquet file")
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


def open_parquet(path: Path) -> Any:
    """A parquet file of pyarrow, which is not among the requirements."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        fix = "python -m pip install pyarrow"
        raise CompatbenchError(f"{path}: pyarrow reads parquet and is not here; {fix}") from None
    size_of(path)
    try:
        return ParquetFile(path)
    except Exception as error:  # pyarrow raises anything on a damaged file
        raise unreadable(path, ValueError(first_line(error))) from None


def image_column(path: Path, schema: Any) -> str:
    """The column that holds the images: binary, or a struct with ``bytes``, as the Hub has it."""
    for field in schema:
        inner = field.type.field("bytes").type if _has_bytes(field.type) else field.type
        if str(inner) in ("binary", "large_binary"):
            return field.name
    raise CompatbenchError(f"{path} has no column of images; it has {', '.join(schema.names)}")


def _has_bytes(kind: Any) -> bool:
    return str(kind).startswith("struct") and kind.get_field_index("bytes") >= 0


def read_parquet_labels(path: Path) -> tuple[list[str | int | None], tuple[str, ...]]:
    """The label of every row, and the names of the labels if they are numbers and it says them."""
    file = open_parquet(path)
    schema = file.schema_arrow
    image_column(path, schema)
    wanted = ("label", "labels", "fine_label", "class", "category", "target")
    name = next((one for one in wanted if one in schema.names), None)
    if name is None:
        raise CompatbenchError(f"{path} has no column 'label'; it has {', '.join(schema.names)}")
    try:
        labels = file.read(columns=[name], use_threads=False)[name].to_pylist()
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = about.get("info", {}).get("features", {}).get(name, {}).get("names", ())
    except Exception as error:
        raise unreadable(path, ValueError(first_line(error))) from None
    if not all(one is None or isinstance(one, (str, int)) for one in labels):
        raise CompatbenchError(f"{path}: column '{name}' holds neither numbers nor names")
    return labels, tuple(map(str, names))


def read_parquet_image(path: Path, number: int) -> bytes:
    """The bytes of the image in a row."""
    group, first = _find_group(path, number)
    if (content := _read_group(path, group)[number - first]) is None:
        raise CompatbenchError(f"{path}: row {number} holds no image, but at most its address")
    return content


@lru_cache(maxsize=256)
def _group_sizes(path: Path) -> tuple[int, ...]:
    about = open_parquet(path).metadata
    return tuple(about.row_group(i).num_rows for i in range(about.num_row_groups))


def _find_group(path: Path, number: int) -> tuple[int, int]:
    """The row group of a row, and the number of its first row."""
    first = 0
    for group, size in enumerate(_group_sizes(path)):
        if number < first + size:
            return group, first
        first += size
    raise CompatbenchError(f"{path} has {first} rows, and none of number {number}")


@lru_cache(maxsize=1)  # images are read in their order
def _read_group(path: Path, group: int) -> list[bytes | None]:
    file = open_parquet(path)
    if file.metadata.row_group(group).total_byte_size > MOST_BYTES:
        raise unreadable(path, ValueError("a row group is larger than 1 GiB"))
    name = image_column(path, file.schema_arrow)
    try:
        found = file.read_row_group(group, columns=[name], use_threads=False)[name].to_pylist()
    except Exception as error:
        raise unreadable(path, ValueError(first_line(error))) from None
    return [one.get("bytes") if isinstance(one, dict) else one for one in found]
