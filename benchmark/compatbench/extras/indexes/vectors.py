"""Vectors in files or arrays, one per row, read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of, require
from compatbench.messages import first_line

BLOCK_BYTES = 4 << 20  # of the vectors that are in memory together, in single precision
DTYPES = ("float16", "float32", "float64")
SUFFIXES = (".npy", ".parquet", ".faiss")
PACKAGES = {".parquet": "pyarrow", ".faiss": "faiss-cpu"}
Array = NDArray[Any]
VectorSource = str | Path | Array
VectorPair = tuple[VectorSource, VectorSource]  # of the old and of the new model


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors of one model, ``[rows, width]``.

    Attributes:
        name: what error messages call them.
        data: the array, the ``pyarrow.parquet.ParquetFile``, or the flat index of Faiss.
        column: the column of a parquet file.
        faiss_index: the whole index of Faiss, which may add ids to the flat one.
    """

    name: str
    rows: int
    width: int
    dtype: np.dtype
    data: Any
    column: str | None = None
    faiss_index: Any = None

    @property
    def rows_per_block(self) -> int:
        return max(1, BLOCK_BYTES // (4 * self.width))

    def blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield the number of the first row of each block, and its vectors ``[n, width]``.

        Raises:
            CompatbenchError: a vector has a NaN or an infinite number.
        """
        first = 0
        for block in self._read_blocks():
            self.require_finite(block, first)
            yield first, block
            first += len(block)

    def require_finite(self, block: Array, first: int) -> None:
        """Raise an error that names the first row with a NaN or an infinite number."""
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = first + int(np.argmin(finite))
            raise CompatbenchError(
                f"{self.name}: the vector in row {row:,} has a NaN or an infinite number; remove "
                "the row"
            )

    def _read_blocks(self) -> Iterator[Array]:
        if self.column is not None:
            for batch in read_batches(self, [self.column]):
                yield parquet_vectors(self, batch.column(0))
            return
        for first in range(0, self.rows, self.rows_per_block):
            count = min(self.rows_per_block, self.rows - first)
            if isinstance(self.data, np.memmap):
                # Each block is mapped anew, because pages stay in memory as long as their map.
                mapped = np.load(self.name, mmap_mode="r", allow_pickle=False)
                yield np.array(mapped[first : first + count])
                del mapped
            elif isinstance(self.data, np.ndarray):
                yield self.data[first : first + count]
            else:
                yield self.data.reconstruct_n(first, count)

    def unit_blocks(self) -> Iterator[tuple[int, Array]]:
        """Yield blocks of vectors of length 1, in single precision; a zero vector is an error."""
        for first, block in self.blocks():
            vectors = block.astype(np.float32)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            if not lengths.all():
                row = first + int(np.argmin(lengths))
                raise CompatbenchError(
                    f"{self.name}: the vector in row {row:,} is all zeros; remove the row"
                )
            yield first, vectors / lengths

    def take_units(self, rows: Array) -> Array:
        """Return the vectors of some rows, in increasing order, with length 1, ``[n, width]``."""
        taken = []
        for first, block in self.unit_blocks():
            start, end = np.searchsorted(rows, [first, first + len(block)])
            taken.append(block[rows[start:end] - first])
        return np.concatenate(taken)

    def all_units(self) -> Array:
        """Return all vectors with length 1, ``[rows, width]``."""
        return self.take_units(np.arange(self.rows))


def open_vectors(source: VectorSource, what: str, column: str | None = None) -> Vectors:
    """Open vectors; nothing but what describes them is read.

    Args:
        source: an array, or the path of a ``.npy``, ``.parquet`` or ``.faiss`` file.
        what: what messages call an array.
        column: the column of a parquet file; needed if several columns contain vectors.

    Raises:
        CompatbenchError: no such file, a damaged file, one of another kind, no vectors, or numbers
            that are not floating-point.
    """
    if not isinstance(source, (str, Path)):
        return _from_array(what, np.asarray(source))
    path = Path(source)
    if kind_of(path, follow=True) != "file":
        raise CompatbenchError(f"{path}: there is no such file; give a {_kinds()} file")
    if column is not None and path.suffix != ".parquet":
        raise CompatbenchError(f"--column '{column}' is for parquet files; {path} is not one")
    readers = {".npy": _open_npy, ".parquet": _open_parquet, ".faiss": _open_faiss}
    if path.suffix not in readers:
        raise CompatbenchError(f"{path}: vectors are read from {_kinds()} files")
    try:
        return readers[path.suffix](require(path, follow=True), column)
    except CompatbenchError:
        raise
    # Every library raises its own errors for a damaged file.
    except Exception as error:
        raise CompatbenchError(f"cannot read {path}: {first_line(error).strip(' .')}") from None


def open_pair(pair: VectorPair, what: str, column: str | None = None) -> tuple[Vectors, Vectors]:
    """Open vectors of the same things on the old and the new model, in the same rows."""
    old = open_vectors(pair[0], f"the old {what}", column)
    new = open_vectors(pair[1], f"the new {what}", column)
    if old.rows != new.rows:
        raise CompatbenchError(
            f"{old.name} has {old.rows:,} rows and {new.name} has {new.rows:,}; both must contain "
            "the same things in the same order"
        )
    return old, new


def require_width(vectors: Vectors, width: int, owner: str) -> None:
    """Raise an error if vectors do not have the width of those that they are compared with."""
    if vectors.width != width:
        raise CompatbenchError(
            f"{vectors.name} has vectors of width {vectors.width}, but {owner} has width {width}; "
            "both must come from the same model"
        )


def import_package(path: Path) -> Any:
    """Import the optional package that reads and writes a kind of file."""
    try:
        if path.suffix == ".faiss":
            return import_module("faiss")
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError:
        package = PACKAGES[path.suffix]
        raise CompatbenchError(f"{path} needs {package}: python -m pip install {package}") from None


def _kinds() -> str:
    return ", ".join(SUFFIXES[:-1]) + f" or {SUFFIXES[-1]}"


def _from_array(name: str, array: Array) -> Vectors:
    if array.ndim != 2 or array.dtype.name not in DTYPES or not array.size:
        raise CompatbenchError(
            f"{name} has {array.dtype} numbers of shape {array.shape}; vectors are a matrix of "
            f"{DTYPES[0]}, {DTYPES[1]} or {DTYPES[2]} with one row for each item"
        )
    return Vectors(name, array.shape[0], array.shape[1], array.dtype, array)


def _open_npy(path: Path, column: str | None) -> Vectors:
    return _from_array(str(path), np.load(path, mmap_mode="r", allow_pickle=False))


def _open_parquet(path: Path, column: str | None) -> Vectors:
    pa = import_package(path)
    file = pa.parquet.ParquetFile(path)
    columns = []
    for field in file.schema_arrow:
        is_list = pa.types.is_list(field.type) or pa.types.is_large_list(field.type)
        is_list = is_list or pa.types.is_fixed_size_list(field.type)
        if is_list and pa.types.is_floating(field.type.value_type):
            columns.append(field.name)
    if column is None and len(columns) == 1:
        column = columns[0]
    if column not in columns:
        problem = "several columns of vectors" if column is None else f"no vectors in '{column}'"
        fix = f"choose one with --column: {', '.join(columns)}"
        if not columns:
            problem = "no column of lists of floating-point numbers"
            fix = f"its columns are {', '.join(file.schema_arrow.names)}"
        raise CompatbenchError(f"{path} has {problem}; {fix}")
    rows = file.metadata.num_rows
    first = next(file.iter_batches(1, columns=[column]), None)
    width = 0 if first is None else len(first.column(0)[0].as_py() or ())
    if not width:
        raise CompatbenchError(f"{path}: column '{column}' has no vector in its first row")
    kind = file.schema_arrow.field(column).type.value_type
    return Vectors(str(path), rows, width, np.dtype(kind.to_pandas_dtype()), file, column)


def read_batches(vectors: Vectors, columns: list[str] | None = None) -> Iterator[Any]:
    """Yield the batches of a parquet file."""
    try:
        yield from vectors.data.iter_batches(vectors.rows_per_block, columns=columns)
    except OSError as error:
        raise CompatbenchError(f"cannot read {vectors.name}: {first_line(error)}") from None


def parquet_vectors(vectors: Vectors, column: Any) -> Array:
    """Return the lists of a batch as ``[n, width]``."""
    values = column.flatten()
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    if (lengths != vectors.width).any() or values.null_count:
        raise CompatbenchError(
            f"{vectors.name}: not every row of column '{vectors.column}' has a vector of width "
            f"{vectors.width} without gaps; remove the others"
        )
    return values.to_numpy(zero_copy_only=False).reshape(-1, vectors.width)


def _open_faiss(path: Path, column: str | None) -> Vectors:
    faiss = import_package(path)
    index = faiss.read_index(str(path))
    stored = faiss.downcast_index(index)
    if isinstance(stored, faiss.IndexIDMap):
        stored = faiss.downcast_index(stored.index)
    if isinstance(stored, faiss.IndexHNSWFlat):
        stored = faiss.downcast_index(stored.storage)
    if not isinstance(stored, faiss.IndexFlat):
        raise CompatbenchError(
            f"{path} is a {type(stored).__name__}, which does not keep its vectors in their order; "
            "give the vectors that it was built from"
        )
    if not stored.ntotal:
        raise CompatbenchError(f"{path} contains no vectors")
    float32 = np.dtype("float32")
    return Vectors(str(path), stored.ntotal, stored.d, float32, stored, faiss_index=index)
