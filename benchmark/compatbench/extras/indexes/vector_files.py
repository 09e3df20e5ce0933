"""Files of vectors, a row each: ``.npy``, parquet, safetensors and flat indexes of Faiss.

They are read and rewritten block by block, so that memory does not grow with the number of rows;
nothing is memory-mapped, for the pages of a mapped file count as memory of the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from compatbench.data.layouts.containers import import_pyarrow
from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.block_threads import map_blocks
from compatbench.extras.indexes.raw_vectors import (
    Change,
    VectorArray,
    VectorFile,
    read_faiss,
    read_npy,
    read_safetensors,
    require_matrix,
)
from compatbench.files.kinds import kind_of, require
from compatbench.messages import first_line

MAGIC = {b"\x93NUM": "npy", b"PAR1": "parquet"}  # the first bytes; Faiss has many
BLOCKS_OF_GROUP = 8  # of a parquet file
SUFFIXES = (".npy", ".parquet", ".safetensors", ".faiss")


@dataclass(frozen=True)
class ParquetVectors(VectorFile):
    """A column of lists of numbers; the other columns and the metadata are kept."""

    column: str

    @property
    def per_block(self) -> int:
        """Rows in a row group."""
        return BLOCKS_OF_GROUP * super().per_block

    def blocks(self, rows: int = 0) -> Iterator[NDArray[Any]]:
        source, rows = _open_parquet(self.path), rows or self.per_block
        batches = self._batches(source, rows, columns=[self.column])
        return map_blocks(lambda batch, first: self._vectors(batch.column(0), first), batches)

    def rewrite(self, file: BinaryIO, width: int, change: Change) -> None:
        pa = import_pyarrow(self.path)
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

        def changed_batch(batch: Any, first: int) -> Any:
            vectors = change(self._vectors(batch.column(place), first), first)
            values = pa.array(vectors.astype(self.dtype, copy=False).reshape(-1))
            columns = batch.columns
            columns[place] = pa.FixedSizeListArray.from_arrays(values, width).cast(kind)
            return pa.record_batch(columns, schema=written)

        with pa.parquet.ParquetWriter(
            file, written, compression=packed, use_dictionary=others
        ) as writer:
            for batch in map_blocks(changed_batch, self._batches(source, self.per_block)):
                writer.write_batch(batch)

    def _batches(self, source: Any, rows: int, **columns: Any) -> Iterator[Any]:
        with _reading(self.path):
            yield from source.iter_batches(rows, **columns)

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
    # A module is a safetensors file, too.
    by_name = path.suffix in SUFFIXES and path.suffix != ".safetensors"
    return first in MAGIC or first[:2] in (b"Ix", b"Iw", b"IH") or by_name


def open_vectors(path: Path, column: str | None = None) -> VectorFile:
    """Opens an index; ``column`` names that of the vectors, where a parquet file has several.

    Raises:
        CompatbenchError: no such file, one that is truncated or of another kind, no vectors, or
            vectors of a type that is none of ``DTYPES``.
    """
    try:
        with _require(path).open("rb") as file:
            first = file.read(9)
            kind = "safetensors" if first[8:] == b"{" else MAGIC.get(first[:4], "faiss")
            if not first:
                raise CompatbenchError(f"{path} is empty; copy it again")
            if column is not None and kind != "parquet":
                raise CompatbenchError(f"--column is for parquet files, and {path} is none")
            file.seek(0)
            if kind == "parquet":
                return _read_parquet(path, column)
            readers = {"npy": read_npy, "safetensors": read_safetensors, "faiss": read_faiss}
            return readers[kind](path, file)
    except OSError as error:
        raise CompatbenchError(f"cannot read the index {path}: {error.strerror}") from None


def as_vectors(
    source: str | Path | NDArray[Any], name: str, column: str | None = None
) -> VectorFile:
    """The vectors of a file, or an array as if it were one that messages call ``name``."""
    if isinstance(source, (str, Path)):
        return open_vectors(Path(source), column)
    vectors = np.asarray(source)
    require_matrix(Path(name), vectors.shape, vectors.dtype)
    rows, width = vectors.shape
    return VectorArray(Path(name), rows, width, vectors.dtype, vectors)


def read_pair(
    pair: tuple[Any, Any], what: str, widths: Sequence[int] = ()
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The vectors of the same things on the old and the new model, in double precision, in memory.

    ``widths`` are those of the two models, or of the first alone, where they are known.
    """
    files = [as_vectors(each, f"the {what}") for each in pair]
    if files[0].rows != files[1].rows:
        shapes = " and ".join(str((file.rows, file.width)) for file in files)
        raise CompatbenchError(
            f"{what} of shapes {shapes}: give two matrices, of the same things in the same rows"
        )
    for age, file, wanted in zip(("old", "new"), files, widths, strict=False):
        if file.width != wanted:
            raise CompatbenchError(
                f"{what} of width {file.width}, where the vectors of the {age} model have "
                f"{wanted}: give those of these two models, the old one's first"
            )
    old, new = (np.concatenate([*file.blocks()]).astype(np.float64) for file in files)
    for file, vectors in zip(files, (old, new), strict=True):
        check_lengths(file.path, vectors, 0, zeros=False)
    return old, new


def check_lengths(
    path: Path, vectors: NDArray[Any], first: int, zeros: bool = True
) -> NDArray[Any]:
    """The lengths of a block's vectors, ``[n, 1]``; ``first`` is the number of its first row.

    A vector with a NaN or an infinite number is an error, and one of zeros where it cannot be.
    """
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    wrong = ~np.isfinite(lengths) if zeros else ~(np.isfinite(lengths) & (lengths > 0))
    if wrong.any():
        row = int(wrong.argmax())
        what = "is all zeros" if lengths[row] == 0 else "has a NaN or an infinite number"
        which = "" if zeros else ", on both models"
        raise CompatbenchError(f"{path}: the vector in row {first + row:,} {what}; drop it{which}")
    return lengths


def _require(path: Path) -> Path:
    if kind_of(path, follow=True) == "folder":
        raise CompatbenchError(f"{path} is a folder; give a file in it, an index or a module")
    return require(path, follow=True)


def _read_parquet(path: Path, column: str | None) -> ParquetVectors:
    pa, source = import_pyarrow(path), _open_parquet(path)
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
    with _reading(path):
        # With a buffer a row group is read in parts.
        return import_pyarrow(path).parquet.ParquetFile(path, buffer_size=1 << 20)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (import_pyarrow(path).ArrowException, OSError) as error:
        what = f"cannot read the index {path}: {first_line(error).rstrip('.')}"
        raise CompatbenchError(f"{what}; is it whole? Copy it again") from None
