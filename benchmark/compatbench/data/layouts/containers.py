"""Files that contain images: plain tar shards, and parquet files of the Hugging Face Hub.

Their images are read in place. Nothing is extracted from a tar shard, and links are refused.
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
from compatbench.files.yaml_text import MALFORMED, load_yaml

TAR = ".tar"
PARQUET = ".parquet"
CONTAINERS = (TAR, PARQUET)
_IMAGES = ("webp", "png", "jpg", "jpeg")  # in a shard
_LABEL_BYTES = 9
_MOST_HEADER = 1 << 13  # bytes of a header with a member's long name
_FURTHER_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_STORED_ONCE = 1 << 28  # bytes of values that may be repeated in any number of rows
_LABELS = ("label", "labels", "fine_label", "class", "category", "target")  # names of the column
_READING = Lock()  # keeps several threads from reading copies of the same group into memory


# The images of a file in its order, each with its label (a number, a name, or None), and the names
# of labels 0, 1, ..., if the file has them.
Content = tuple[list[tuple[Stored, str | int | None]], tuple[str, ...]]


def open_container(folder: Path, name: str, labelled: bool = True) -> Content:
    """Return the images of the tar shard or parquet file ``name`` below a folder.

    The identities of the images begin with this name.

    Raises:
        CompatbenchError: the file is broken, or is ``labelled`` and an image has no label.
    """
    path = inside(folder, name)
    if name.endswith(TAR):
        return _open_shard(path, name, labelled)
    return _open_parquet_rows(path, name, labelled)


class _TarMember(tarfile.TarInfo):
    """A member of a tar file whose further headers are short.

    Such a header holds a long name. tarfile searches it in a time that grows with its square.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _FURTHER_HEADERS and self.size > _MOST_HEADER:
            raise tarfile.ReadError(f"a header has more than {_MOST_HEADER:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]


def _open_shard(path: Path, name: str, labelled: bool) -> Content:
    """Return the images of a shard; ``x.cls`` contains the number of the label of ``x.jpg``."""
    total = size_of(path)
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    # "r:" takes plain tars only: a compressed one would have to be unpacked.
    opening = reading(path, tarfile.TarError, MemoryError)
    with opening, tarfile.open(path, "r:", tarinfo=_TarMember) as tar:
        for member in tar:
            # With a negative size, reading would never end.
            fits = 0 <= member.size <= total - member.offset_data
            if not fits or member.issparse():
                raise ValueError(f"{member.name!r} is not as large as it says")
            stem, _, extension = member.name.rpartition(".")
            if extension not in (*_IMAGES, "cls"):
                continue
            file = tar.extractfile(member) if member.isreg() else None  # not links, not devices
            if file is None or not member.name.isprintable():
                raise CompatbenchError(f"{path}: {member.name!r} is not a plain file")
            if member.name.startswith("/") or ".." in member.name.split("/"):
                raise CompatbenchError(f"{path}: {member.name!r} leads out of the shard")
            if stem in (labels if extension == "cls" else images):
                kind = "labels" if extension == "cls" else "images"
                raise CompatbenchError(f"{path}: two {kind} are named {stem!r}; remove one")
            if extension == "cls":
                labels[stem] = int(file.read(_LABEL_BYTES))
            else:
                images[stem] = (member.offset_data, member.size)
    default = -1 if labelled else 0  # the label of an image that has none
    for stem in images.keys() | labels.keys():
        if stem not in images or labels.get(stem, default) < 0:
            raise CompatbenchError(f"{path}: {stem!r} is not an image with a label")
    members: list[tuple[Stored, str | int | None]] = []
    for stem, (start, size) in images.items():
        member = Member(f"{name}/{stem}", -1, path, start, size)
        label = labels[stem] if labelled else None
        members.append((member, label))
    return members, ()


@dataclass(frozen=True, slots=True)
class RowImage(Stored):
    """One image in a row of a file, in a group of rows that is read as a whole."""

    file: Path
    group: int
    row: int

    @property
    def container(self) -> Path:
        return self.file

    @property
    def size(self) -> int:
        """Return the bytes of the whole file: an image's own would have to be decoded."""
        return size_of(self.file)

    def read(self) -> bytes:
        """Return the bytes of the image; raise ``BrokenImages`` if there is none."""
        with _READING:
            content = _read_group(self.file, self.group)[self.row]
        if content is None:
            problem = f"{self.id} holds no image, but at most its address; put it there"
            raise BrokenImages(f"{self.file}: {problem}")
        return content


def _open_parquet_rows(path: Path, name: str, labelled: bool) -> Content:
    file = open_parquet(path)
    schema = file.schema_arrow
    _image_column(path, schema)  # raises an error if there is none
    columns = [name for name in _LABELS if name in schema.names]
    column = columns[0] if columns else ""
    if labelled and not column:
        raise CompatbenchError(f"{path} has no column 'label'; it has {', '.join(schema.names)}")
    places = []
    for group in range(file.num_row_groups):
        rows_in_group = file.metadata.row_group(group).num_rows
        places += [(group, row) for row in range(rows_in_group)]
    labels: list[Any] = [None] * len(places)
    if labelled:
        labels = _read_column(path, column)
    if not all(label is None or isinstance(label, (str, int)) for label in labels):
        raise CompatbenchError(f"{path}: column '{column}' holds neither numbers nor names")
    with reading(path, Exception):
        about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = about.get("info", {}).get("features", {})
        names = tuple(map(str, features.get(column, {}).get("names", ())))
    images = []
    for number, (group, row) in enumerate(places):
        images.append(RowImage(f"{name}/{number}", -1, path, group, row))
    return list(zip(images, labels, strict=True)), names


def hub_class_names(folder: Path) -> tuple[str, ...]:
    """Return the names of labels 0, 1, ... in the head of the folder's ``README.md``, if any.

    The Hub stores them in ``dataset_info``. They are ignored if the folder has several datasets.
    """
    path = folder / "README.md"
    if not path.is_file():
        return ()
    try:
        _, head, _ = read_bytes(path).split(b"---\n", 2)
        info = load_yaml(head.decode())["dataset_info"]
        [dataset] = info if isinstance(info, list) else [info]
        kinds = {}
        for feature in dataset["features"]:
            kinds[feature["name"]] = feature["dtype"]
        kind = next(kinds[name] for name in _LABELS if name in kinds)
        names = kind["class_label"]["names"]
        if isinstance(names, dict):
            names = names.values()
        return tuple(map(str, names))
    except (*MALFORMED, StopIteration):
        return ()  # another kind of page


def open_parquet(path: Path) -> Any:
    """Open a parquet file; return pyarrow's ``ParquetFile``. pyarrow is optional."""
    try:
        import pyarrow.parquet
    except ImportError:
        problem = f"{path}: pyarrow reads parquet and is not installed"
        raise CompatbenchError(f"{problem}; python -m pip install pyarrow") from None
    size_of(path)
    with reading(path, Exception):  # pyarrow raises all kinds of errors on a damaged file
        return pyarrow.parquet.ParquetFile(path)


def _read_column(path: Path, name: str) -> list[Any]:
    """Return the values of a column without reading the images."""
    file = open_parquet(path)
    with reading(path, Exception):
        batches = [*_unpack(file, [name], [*range(file.num_row_groups)], 1024)]
    values: list[Any] = []
    for batch in batches:
        values += batch[name]
    return values


def _unpack(file: Any, columns: list[str], groups: list[int], rows: int) -> Iterator[Any]:
    """Yield the values of columns by name, so many rows at a time.

    A small file must not fill the memory. A value that is stored once, such as a class name, may
    be in many rows, so 256 MiB are always accepted. Images are not repeated: beyond that, at most
    four times the size that the file declares is accepted.
    """
    declared = sum(file.metadata.row_group(group).total_byte_size for group in groups)
    limit = min(MOST_BYTES, max(_STORED_ONCE, 4 * declared))
    size = 0
    for batch in file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
        size += batch.nbytes
        if size > limit:
            raise ValueError(f"it unpacks to more than {limit >> 20:,} MiB")
        yield batch.to_pydict()


def _image_column(path: Path, schema: Any) -> str:
    """Return the column of the images: binary, or a struct with ``bytes``, as on the Hub."""
    for column in schema:
        kind = column.type
        if str(kind).startswith("struct") and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if str(kind) in ("binary", "large_binary"):
            return str(column.name)
    columns = ", ".join(schema.names)
    raise CompatbenchError(f"{path}: no image column found; the columns are {columns}")


@lru_cache(maxsize=2)  # images are read in order, but threads may be on both sides of a border
def _read_group(path: Path, group: int) -> list[bytes | None]:
    file = open_parquet(path)
    name = _image_column(path, file.schema_arrow)
    with reading(path, Exception):
        if file.metadata.row_group(group).total_byte_size > MOST_BYTES:
            raise ValueError("a row group is larger than 1 GiB")
        rows = [*_unpack(file, [name], [group], 1)]
    images: list[bytes | None] = []
    for columns in rows:
        for image in columns[name]:
            images.append(image.get("bytes") if isinstance(image, dict) else image)
    return images
