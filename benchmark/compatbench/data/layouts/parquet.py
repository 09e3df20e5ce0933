"""Reads labels and images from parquet files of the Hugging Face Hub's kind, where they lie."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from compatbench.data.images.dataset_files import (
    MOST_BYTES,
    BrokenImages,
    read_bytes,
    size_of,
    unreadable,
)
from compatbench.errors import CompatbenchError
from compatbench.messages import first_line

_READING = Lock()  # or several threads would read the same group, each into memory of its own
_LABELS = ("label", "labels", "fine_label", "class", "category", "target")  # names of the column


def hub_class_names(folder: Path) -> tuple[str, ...]:
    """The names of labels 0, 1, ... in the head of the folder's ``README.md``, if they are there.

    The Hub keeps them in ``dataset_info``; several datasets in one folder say nothing.
    """
    path = folder / "README.md"
    parts = read_bytes(path).split(b"---\n", 2) if path.is_file() else []
    if len(parts) < 3 or parts[0].strip():
        return ()
    try:
        info = yaml.safe_load(parts[1]).get("dataset_info")
        one: Any = info[0] if isinstance(info, list) and len(info) == 1 else info
        for feature in one["features"]:
            if feature["name"] in _LABELS:
                names = feature["dtype"]["class_label"]["names"]
                rows = names.values() if isinstance(names, dict) else names
                return tuple(map(str, rows))
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        pass  # another kind of page
    return ()


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
    name = next((one for one in _LABELS if one in schema.names), None)
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
    """The bytes of the image in a row; ``BrokenImages`` if there is none."""
    with _READING:
        group, first = _find_group(path, number)
        content = _read_group(path, group)[number - first]
    if content is None:
        raise BrokenImages(f"{path}: row {number} holds no image, but at most its address")
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
    raise BrokenImages(f"{path} has {first} rows, and none of number {number}")


@lru_cache(maxsize=2)  # images are read in their order, by threads on both sides of a border
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
