"""Files of vectors, a row each: ``.npy``, parquet and flat indexes of Faiss.

They are read and rewritten block by block, so that memory does not grow with the number of rows;
nothing is memory-mapped, for the pages of a mapped file count as memory of the process.
"""

from __future__ import annotations

import io
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of, require
from compatbench.messages import first_line

# Bytes of the float32 vectors of a block, which stays in the processor's cache; a row group of a
# parquet file is as many blocks.
BLOCK, BLOCKS_OF_GROUP = 2 << 20, 16
DTYPES = ("float16", "float32", "float64")
MAGIC = {b"\x93NUM": "npy", b"PAR1": "parquet"}  # the first bytes; Faiss has many
SUFFIXES = (".npy", ".parquet", ".faiss")
# Vectors ``[n, width]`` and the number of the first, to the vectors in their place.
Change = Callable[[NDArray[Any], int], NDArray[Any]]
# Of an index of Faiss, after four letters for its kind: width, rows, two that are not used,
# whether it is trained, and its metric, behind which all but the first two have a number.
_FAISS = struct.Struct("<iqqq?i")
_FLAT, _WITH_IDS = (b"IxFI", b"IxF2", b"IxFl"), (b"IxMp", b"IxM2")


@dataclass(frozen=True)
class VectorFile:
    """An index that is open for reading."""

    path: Path
    rows: int
    width: int
    dtype: np.dtype

    @property
    def per_block(self) -> int:
        """Rows in a block."""
        return max(1, BLOCK // (4 * self.width))

    def rewrite(self, file: BinaryIO, width: int, change: Change) -> None:
        """Writes the same file with other vectors, of this width; all else is kept."""
        raise NotImplementedError


@dataclass(frozen=True)
class RawVectors(VectorFile):
    """Vectors that lie one behind the other, with a header before and perhaps ids behind them."""

    start: int  # of the vectors, in bytes
    header: Callable[[int], bytes]  # for vectors of a width

    def __post_init__(self) -> None:
        needed = self.start + self.rows * self.width * self.dtype.itemsize
        if (size := self.path.stat().st_size) < needed:
            raise CompatbenchError(
                f"{self.path} is truncated: {self.rows:,} vectors of width {self.width} end at "
                f"byte {needed:,}, and the file at {size:,}; copy it again"
            )

    def rewrite(self, file: BinaryIO, width: int, change: Change) -> None:
        file.write(self.header(width))
        with self.path.open("rb") as source:
            source.seek(self.start)
            for first in range(0, self.rows, self.per_block):
                shape = min(self.per_block, self.rows - first), self.width
                block = np.fromfile(source, self.dtype, shape[0] * shape[1])
                if block.size < shape[0] * shape[1]:
                    raise CompatbenchError(f"{self.path} became shorter while it was read")
                changed = change(block.reshape(shape), first)
                file.write(np.ascontiguousarray(changed, self.dtype).data)
            shutil.copyfileobj(source, file)  # what stands behind the vectors


@dataclass(frozen=True)
class ParquetVectors(VectorFile):
    """A column of lists of numbers; the other columns and the metadata are kept."""

    column: str

    @property
    def per_block(self) -> int:
        """Rows in a row group."""
        return BLOCKS_OF_GROUP * super().per_block

    def rewrite(self, file: BinaryIO, width: int, change: Change) -> None:
        pa, pq = _pyarrow()
        source = _open_parquet(self.path)
        schema, place = source.schema_arrow, source.schema_arrow.get_field_index(self.column)
        old = schema.field(place)
        inner, kind = old.type.value_field, pa.list_(old.type.value_field)
        if pa.types.is_fixed_size_list(old.type):
            kind = pa.list_(inner, width)
        elif pa.types.is_large_list(old.type):
            kind = pa.large_list(inner)
        about = dict(schema.metadata or {})
        if width != self.width:
            about.pop(b"huggingface", None)  # it has the width, too
        written = schema.set(place, old.with_type(kind)).with_metadata(about or None)
        others = [name for name in schema.names if name != self.column]
        packed = source.metadata.row_group(0).column(place).compression
        packed = "NONE" if packed == "UNCOMPRESSED" else packed
        first = 0
        with pq.ParquetWriter(file, written, compression=packed, use_dictionary=others) as writer:
            for batch in self._batches(source):
                vectors = change(self._vectors(batch.column(place), first), first)
                values = pa.array(vectors.astype(self.dtype, copy=False).reshape(-1))
                columns = batch.columns
                columns[place] = pa.FixedSizeListArray.from_arrays(values, width).cast(kind)
                writer.write_batch(pa.record_batch(columns, schema=written))
                first += len(batch)

    def _batches(self, source: Any) -> Iterator[Any]:
        with _reading(self.path):
            yield from source.iter_batches(self.per_block)

    def _vectors(self, lists: Any, first: int) -> NDArray[Any]:
        """The lists of a batch as ``[n, width]``; each must be whole."""
        pc: Any = import_module("pyarrow.compute")  # whose functions no type checker sees
        lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
        values, problem, row = lists.flatten(), "", 0
        if (wrong := np.flatnonzero(lengths != self.width)).size:
            row, length = wrong[0], lengths[wrong[0]]
            what = "nothing" if length < 0 else f"a vector of width {length}"
            problem = f"{what} in row {first + row:,}, and width {self.width} before"
        elif values.null_count:
            row = int(np.flatnonzero(values.is_null())[0]) // self.width
            problem = f"a vector with gaps in row {first + row:,}"
        if problem:
            raise CompatbenchError(
                f"{self.path}: column '{self.column}' has {problem}; drop the row"
            )
        return values.to_numpy(zero_copy_only=False).reshape(-1, self.width)


def is_vector_file(path: Path) -> bool:
    """Whether it is an index by its first bytes, or by its name where it cannot be read."""
    try:
        with _require(path).open("rb") as file:
            first = file.read(4)
    except OSError:
        first = b""
    return first in MAGIC or first[:2] in (b"Ix", b"Iw", b"IH") or path.suffix in SUFFIXES


def open_vectors(path: Path, column: str | None = None) -> VectorFile:
    """Opens an index; ``column`` names that of the vectors, where a parquet file has several.

    Raises:
        CompatbenchError: no such file, one that is truncated or of another kind, no vectors, or
            vectors of a type that is none of ``DTYPES``.
    """
    try:
        with _require(path).open("rb") as file:
            kind = MAGIC.get(first := file.read(4), "faiss")
            if not first:
                raise CompatbenchError(f"{path} is empty; copy it again")
            if column is not None and kind != "parquet":
                raise CompatbenchError(f"--column is for parquet files, and {path} is none")
            file.seek(0)
            if kind == "parquet":
                vectors: VectorFile = _read_parquet(path, column)
            else:
                vectors = _read_npy(path, file) if kind == "npy" else _read_faiss(path, file)
    except OSError as error:
        raise CompatbenchError(f"cannot read the index {path}: {error.strerror}") from None
    if not vectors.rows or not vectors.width:
        raise CompatbenchError(f"{path} holds no vectors")
    return vectors


def _require(path: Path) -> Path:
    if kind_of(path, follow=True) == "folder":
        raise CompatbenchError(f"{path} is a folder; give a file in it, an index or a module")
    return require(path, follow=True)


def _read_npy(path: Path, file: BinaryIO) -> RawVectors:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except ValueError as error:
        raise CompatbenchError(f"{path} is no .npy file: {first_line(error)}") from None
    if len(shape) != 2 or dtype.name not in DTYPES or by_columns:
        order = ", stored by column" if by_columns else ""
        raise CompatbenchError(
            f"{path} holds {dtype} of shape {shape}{order}; an index is a matrix of {DTYPES[0]} "
            f"to {DTYPES[-1]}, a vector in each row: save it as "
            "numpy.ascontiguousarray(VECTORS, 'float32')"
        )

    def header(width: int) -> bytes:
        made = io.BytesIO()
        about = {"descr": dtype.str, "fortran_order": False, "shape": (shape[0], width)}
        npy.write_array_header_1_0(made, about)
        return made.getvalue()

    return RawVectors(path, *shape, dtype, file.tell(), header)


def _read_faiss(path: Path, file: BinaryIO) -> RawVectors:
    """A flat index, or one inside an ``IndexIDMap``; their layout needs no library."""
    levels: list[tuple[bytes, tuple[Any, ...], bytes]] = []
    try:
        while not levels or levels[-1][0] not in _FLAT:
            if (kind := file.read(4)) not in (*_FLAT, *_WITH_IDS):
                raise CompatbenchError(
                    f"{path} is no .npy, parquet or flat Faiss index (it begins with {kind!r}); "
                    "of other indexes port the vectors that they were built from, saved as .npy, "
                    "and build them again"
                )
            values = _FAISS.unpack(file.read(_FAISS.size))
            levels.append((kind, values, file.read(4 if values[-1] > 1 else 0)))
        (count,) = struct.unpack("<Q", file.read(8))
    except struct.error:
        raise CompatbenchError(f"{path} is truncated inside its header; copy it again") from None
    width, rows = levels[-1][1][:2]
    if min(width, rows) < 0 or count != width * rows:
        raise CompatbenchError(
            f"{path} is damaged: it has {count:,} numbers for {rows:,} × {width}"
        )

    def header(new: int) -> bytes:
        parts = [kind + _FAISS.pack(new, *rest) + extra for kind, (_, *rest), extra in levels]
        return b"".join(parts) + struct.pack("<Q", new * rows)

    return RawVectors(path, rows, width, np.dtype("<f4"), file.tell(), header)


def _read_parquet(path: Path, column: str | None) -> ParquetVectors:
    pa, _ = _pyarrow()
    source = _open_parquet(path)
    lists = pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list
    kinds = {
        field.name: field.type
        for field in source.schema_arrow
        if any(test(field.type) for test in lists) and pa.types.is_floating(field.type.value_type)
    }
    chosen = column or (next(iter(kinds)) if len(kinds) == 1 else None)
    if chosen is None or chosen not in kinds:
        what = f"{len(kinds) or 'no'} columns" if column is None else f"no column '{column}'"
        known = f"; --column one of {', '.join(kinds)}" if kinds else ""
        raise CompatbenchError(f"{path} has {what} of lists of floating-point numbers{known}")
    dtype, rows = np.dtype(kinds[chosen].value_type.to_pandas_dtype()), source.metadata.num_rows
    width = getattr(kinds[chosen], "list_size", 0)
    if rows and not width:
        with _reading(path):
            [first] = next(source.iter_batches(1, columns=[chosen])).column(0).to_pylist()
        if not (width := len(first or ())):
            raise CompatbenchError(f"{path}: column '{chosen}' has nothing in row 0; drop the row")
    return ParquetVectors(path, rows, width, dtype, chosen)


def _open_parquet(path: Path) -> Any:
    _, pq = _pyarrow()
    with _reading(path):
        # With a buffer a row group is read in parts.
        return pq.ParquetFile(path, buffer_size=1 << 20)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    pa, _ = _pyarrow()
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        what = f"cannot read the index {path}: {first_line(error).rstrip('.')}"
        raise CompatbenchError(f"{what}; is it whole? Copy it again") from None


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise CompatbenchError(
            "parquet files need pyarrow: pip install 'compatbench[parquet]'"
        ) from None
    return pyarrow, pyarrow.parquet
