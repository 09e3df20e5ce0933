"""Vectors that lie one behind the other: ``.npy``, safetensors, flat Faiss indexes, and memory."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.block_threads import map_blocks
from compatbench.messages import first_line

BLOCK = 4 << 20  # bytes of float32 in a block; in small ones threads wait for each other
DTYPES = ("float16", "float32", "float64")
KINDS = "a .npy, parquet, safetensors or flat Faiss index"
# Vectors ``[n, width]`` and the number of the first, to the vectors in their place; called for
# several blocks at once.
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

    def __post_init__(self) -> None:
        if not self.rows or not self.width:
            raise CompatbenchError(f"{self.path} holds no vectors")

    @property
    def per_block(self) -> int:
        """Rows in a block."""
        return max(1, BLOCK // (4 * self.width))

    def blocks(self, rows: int = 0) -> Iterator[NDArray[Any]]:
        """The vectors in their order, by default ``per_block`` at a time, ``[n, width]``."""
        raise NotImplementedError

    def rewrite(self, file: BinaryIO, width: int, change: Change) -> None:
        """Writes the same file with other vectors, of this width; all else is kept."""
        raise NotImplementedError


@dataclass(frozen=True)
class VectorArray(VectorFile):
    """Vectors in memory; ``path`` is what messages call them."""

    vectors: NDArray[Any]

    def blocks(self, rows: int = 0) -> Iterator[NDArray[Any]]:
        for first in range(0, self.rows, rows or self.per_block):
            yield self.vectors[first : first + (rows or self.per_block)]


@dataclass(frozen=True)
class RawVectors(VectorFile):
    """Vectors that lie one behind the other, with a header before and perhaps ids behind them."""

    start: int  # of the vectors, in bytes
    header: Callable[[int], bytes]  # for vectors of a width

    def __post_init__(self) -> None:
        super().__post_init__()
        if (size := self.path.stat().st_size) < self.end:
            raise CompatbenchError(
                f"{self.path} is truncated: {self.rows:,} vectors of width {self.width} end at "
                f"byte {self.end:,}, and the file at {size:,}; copy it again"
            )

    @property
    def end(self) -> int:
        """Of the vectors, in bytes."""
        return self.start + self.rows * self.width * self.dtype.itemsize

    def blocks(self, rows: int = 0) -> Iterator[NDArray[Any]]:
        rows = rows or self.per_block
        with self.path.open("rb") as source:
            source.seek(self.start)
            for first in range(0, self.rows, rows):
                shape = min(rows, self.rows - first), self.width
                block = np.fromfile(source, self.dtype, shape[0] * shape[1])
                if block.size < shape[0] * shape[1]:
                    raise CompatbenchError(f"{self.path} became shorter while it was read")
                yield block.reshape(shape)

    def rewrite(self, file: BinaryIO, width: int, change: Change) -> None:
        def changed_block(block: NDArray[Any], first: int) -> NDArray[Any]:
            return np.ascontiguousarray(change(block, first), self.dtype)

        file.write(self.header(width))
        for changed in map_blocks(changed_block, self.blocks()):
            file.write(changed.data)
        with self.path.open("rb") as source:
            source.seek(self.end)
            shutil.copyfileobj(source, file)  # what stands behind the vectors


def read_npy(path: Path, file: BinaryIO) -> RawVectors:
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, by_columns, dtype = read(file)
    except ValueError as error:
        raise CompatbenchError(f"{path} is no .npy file: {first_line(error)}") from None
    order = ", stored by column" if by_columns else ""
    require_matrix(path, shape, dtype, order)

    def header(width: int) -> bytes:
        made = io.BytesIO()
        about = {"descr": dtype.str, "fortran_order": False, "shape": (shape[0], width)}
        npy.write_array_header_1_0(made, about)
        return made.getvalue()

    return RawVectors(path, shape[0], shape[1], dtype, file.tell(), header)


def require_matrix(path: Path, shape: tuple[int, ...], dtype: Any, order: str = "") -> None:
    """An error if these are no vectors in rows; ``order`` is how else they are stored."""
    if len(shape) != 2 or getattr(dtype, "name", "") not in DTYPES or order:
        raise CompatbenchError(
            f"{path} holds {dtype} of shape {shape}{order}; an index is a matrix of {DTYPES[0]} "
            f"to {DTYPES[-1]}, a vector in each row: save it as "
            "numpy.ascontiguousarray(VECTORS, 'float32')"
        )


def read_safetensors(path: Path, file: BinaryIO) -> RawVectors:
    """A file of one matrix; its header, too, needs no library."""
    kinds = {f"F{8 * np.dtype(name).itemsize}": np.dtype(name) for name in DTYPES}
    try:
        size = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(min(size, 1 << 24)))
        [name] = about.keys() - {"__metadata__"}
        kind, shape, (start, _) = (about[name][key] for key in ("dtype", "shape", "data_offsets"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CompatbenchError(
            f"{path} is no safetensors file with one matrix and nothing else; save the vectors "
            "in a file of their own"
        ) from None
    require_matrix(path, tuple(shape), kinds.get(kind, kind))
    dtype = kinds[kind]

    def header(width: int) -> bytes:
        end = shape[0] * width * dtype.itemsize
        new = {"dtype": kind, "shape": [shape[0], width], "data_offsets": [0, end]}
        text = json.dumps(about | {name: new}, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    return RawVectors(path, shape[0], shape[1], dtype, 8 + size + start, header)


def read_faiss(path: Path, file: BinaryIO) -> RawVectors:
    """A flat index, or one inside an ``IndexIDMap``; their layout needs no library."""
    levels: list[tuple[bytes, tuple[Any, ...], bytes]] = []
    try:
        while not levels or levels[-1][0] not in _FLAT:
            if (kind := file.read(4)) not in (*_FLAT, *_WITH_IDS):
                raise CompatbenchError(
                    f"{path} is no {KINDS[2:]} (it begins with {kind!r}); "
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
