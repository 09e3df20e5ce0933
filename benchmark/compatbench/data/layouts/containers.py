"""Files that hold images: plain tar shards, and parquet files of the Hugging Face Hub.

All are read where they lie. Of a tar shard nothing is extracted, and links are refused.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from compatbench.data.images.dataset_files import (
    MOST_BYTES,
    BrokenImages,
    inside,
    read_bytes,
    reading,
    size_of,
)
from compatbench.data.images.source import Member, Stored
from compatbench.errors import CompatbenchError

TAR, PARQUET = CONTAINERS = ".tar", ".parquet"
_IMAGES = ("webp", "png", "jpg", "jpeg")  # in a shard
_LABEL_BYTES = 9
_STORED_ONCE = 1 << 28  # bytes of values that may be repeated at will
_LABELS = ("label", "labels", "fine_label", "class", "category", "target")  # names of the column
_READING = Lock()  # or several threads would read the same group, each into memory of its own


# The images of a file in its order, each with its label: a number, a name, or None; and the names
# of labels 0, 1, ..., where the file tells.
Content = tuple[list[tuple[Stored, str | int | None]], tuple[str, ...]]


def open_container(folder: Path, name: str, labelled: bool = True) -> Content:
    """Looks into the tar shard or parquet file ``name`` below a folder.

    The identities of its images begin with its name.

    Raises:
        CompatbenchError: the file is broken, or is ``labelled`` and an image has no label.
    """
    path = inside(folder, name)
    return (_open_shard if name.endswith(TAR) else _open_parquet_rows)(path, name, labelled)


def _open_shard(path: Path, name: str, labelled: bool) -> Content:
    """An image ``x.jpg`` has its label, a number, in ``x.cls``."""
    total = size_of(path)
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    # "r:" takes plain tars only: a compressed one would have to be unpacked.
    with reading(path, tarfile.TarError, MemoryError), tarfile.open(path, "r:") as tar:
        for member in tar:
            # A negative size would be read without end.
            if not 0 <= member.size <= total - member.offset_data or member.issparse():
                raise ValueError(f"{member.name!r} is not as large as it says")
            stem, _, extension = member.name.rpartition(".")
            if extension not in (*_IMAGES, "cls"):
                continue
            file = tar.extractfile(member) if member.isreg() else None
            if file is None or not member.name.isprintable():
                raise CompatbenchError(f"{path}: {member.name!r} is not a plain file")
            if extension == "cls":
                labels[stem] = int(file.read(_LABEL_BYTES))
            else:
                images[stem] = member.offset_data, member.size
    for stem in images.keys() | labels.keys():
        if stem not in images or labels.get(stem, -1 if labelled else 0) < 0:
            raise CompatbenchError(f"{path}: {stem!r} is not an image with a label")
    members = {s: Member(f"{name}/{s}", -1, path, *images[s]) for s in images}
    return [(members[stem], labels[stem] if labelled else None) for stem in members], ()


@dataclass(frozen=True, slots=True)
class RowImage(Stored):
    """One image in a row of a file: in a group of rows, which is read as a whole."""

    file: Path
    group: int
    row: int

    @property
    def size(self) -> int:
        """The bytes of the whole file, which is not decoded."""
        return size_of(self.file)

    def read(self) -> bytes:
        """The bytes of the image; ``BrokenImages`` if there is none."""
        with _READING:
            content = _read_group(self.file, self.group)[self.row]
        if content is None:
            what = f"{self.id} holds no image, but at most its address; put it there"
            raise BrokenImages(f"{self.file}: {what}")
        return content


def _open_parquet_rows(path: Path, name: str, labelled: bool) -> Content:
    file = open_parquet(path)
    schema = file.schema_arrow
    _image_column(path, schema)
    column = next((column for column in _LABELS if column in schema.names), "")
    if labelled and not column:
        raise CompatbenchError(f"{path} has no column 'label'; it has {', '.join(schema.names)}")
    places = []
    for group in range(file.num_row_groups):
        rows_in_group = file.metadata.row_group(group).num_rows
        places += [(group, row) for row in range(rows_in_group)]
    labels = _read_column(path, column) if labelled else [None] * len(places)
    if not all(label is None or isinstance(label, (str, int)) for label in labels):
        raise CompatbenchError(f"{path}: column '{column}' holds neither numbers nor names")
    with reading(path, Exception):
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        names = tuple(map(str, features.get(column, {}).get("names", ())))
    rows = (RowImage(f"{name}/{i}", -1, path, *place) for i, place in enumerate(places))
    return list(zip(rows, labels, strict=True)), names


def hub_class_names(folder: Path) -> tuple[str, ...]:
    """The names of labels 0, 1, ... in the head of the folder's ``README.md``, if they are there.

    The Hub keeps them in ``dataset_info``; several datasets in one folder say nothing.
    """
    path = folder / "README.md"
    if not path.is_file():
        return ()
    try:
        _, head, _ = read_bytes(path).split(b"---\n", 2)
        info = yaml.safe_load(head)["dataset_info"]
        [dataset] = info if isinstance(info, list) else [info]
        kinds = {feature["name"]: feature["dtype"] for feature in dataset["features"]}
        names = next(kinds[name] for name in _LABELS if name in kinds)["class_label"]["names"]
        return tuple(map(str, names.values() if isinstance(names, dict) else names))
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, StopIteration):
        return ()  # another kind of page


def import_pyarrow(path: Path) -> Any:
    """pyarrow, which reads a file and is not among the requirements."""
    try:
        import pyarrow.parquet
    except ImportError:
        kind, fix = path.suffix[1:] or "it", "python -m pip install pyarrow"
        raise CompatbenchError(f"{path}: pyarrow reads {kind} and is not here; {fix}") from None
    return pyarrow


def open_parquet(path: Path) -> Any:
    """Open a parquet file; return pyarrow's ``ParquetFile``."""
    pyarrow = import_pyarrow(path)
    size_of(path)
    with reading(path, Exception):  # pyarrow raises anything on a damaged file
        return pyarrow.parquet.ParquetFile(path)


def _read_column(path: Path, name: str) -> list[Any]:
    """Return the values of a column; images are left alone."""
    file = open_parquet(path)
    with reading(path, Exception):
        batches = [*_unpack(file, [name], [*range(file.num_row_groups)], 1024)]
    return [value for batch in batches for value in batch[name]]


def _unpack(file: Any, columns: list[str], groups: list[int], rows: int) -> Iterator[Any]:
    """Yield the values of columns by name, so many rows at a time.

    A value that is stored once may stand in many rows, as names of classes do. Images do not:
    beyond 256 MiB, they take no more than four times what the file says of them.
    """
    declared = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    most = min(MOST_BYTES, max(_STORED_ONCE, 4 * declared))
    size = 0
    for batch in file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
        if (size := size + batch.nbytes) > most:
            raise ValueError(f"it unpacks to more than {most >> 20:,} MiB")
        yield batch.to_pydict()


def _image_column(path: Path, schema: Any) -> str:
    """The column that holds the images: binary, or a struct with ``bytes``, as the Hub has it."""
    for column in schema:
        kind = column.type
        if str(kind).startswith("struct") and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if str(kind) in ("binary", "large_binary"):
            return str(column.name)
    raise CompatbenchError(f"{path} has no column of images; it has {', '.join(schema.names)}")


@lru_cache(maxsize=2)  # images are read in their order, by threads on both sides of a border
def _read_group(path: Path, group: int) -> list[bytes | None]:
    file = open_parquet(path)
    name = _image_column(path, file.schema_arrow)
    with reading(path, Exception):
        if file.metadata.row_group(group).total_byte_size > MOST_BYTES:
            raise ValueError("a row group is larger than 1 GiB")
        rows = [*_unpack(file, [name], [group], 1)]
    images = [image for row in rows for image in row[name]]
    return [image.get("bytes") if isinstance(image, dict) else image for image in images]
