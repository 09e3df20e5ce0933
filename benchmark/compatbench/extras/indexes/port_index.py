"""An old model's index, mapped to a new model: no item is encoded again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.index_maps import IndexMap, fit_map, load_index_map
from compatbench.extras.indexes.vectors import (
    SUFFIXES,
    Vectors,
    VectorSource,
    import_package,
    open_vectors,
    parquet_vectors,
    read_batches,
)
from compatbench.files.atomic import open_atomic
from compatbench.files.kinds import require_new

COLUMN = "vector"  # of a parquet file that is made from a file of another kind
Array = NDArray[Any]


@dataclass(frozen=True)
class PortedIndex:
    """A file of mapped vectors.

    Attributes:
        path: the file.
        rows, width, dtype: of the mapped vectors.
        map: how they were mapped.
    """

    path: Path
    rows: int
    width: int
    dtype: str
    map: IndexMap

    def __str__(self) -> str:
        size = f"{self.rows:,} vectors of width {self.width}, {self.dtype}"
        return f"wrote {self.path}: {size}\n{self.map}"


def port_index(
    index: VectorSource,
    index_map: IndexMap | str | Path | None = None,
    *,
    out: str | Path,
    source: str | None = None,
    target: str | None = None,
    column: str | None = None,
    device: str = "auto",
) -> PortedIndex:
    """Map the vectors of an old model to a new model's space, and write them to a file.

    The index is read and mapped in blocks, so memory does not grow with it, except for Faiss,
    which keeps an index in memory. Vectors keep their order, their length and their type; parquet
    files keep their other columns, and Faiss its ids and its metric.

    Args:
        index: a ``.npy``, parquet or Faiss file, or an array.
        index_map: the map, or its file, as ``index map`` writes it.
        out: the file to write. Its ending says what it will be: ``.npy``, ``.parquet`` or
            ``.faiss``.
        source, target: in place of a map, two CLIP models: the one that made the index and the new
            one. The map then comes from how both encode a list of words.
        column: the column of vectors, if a parquet file has several.
        device: where the two models run.

    Returns:
        Where the vectors are, and how good the map is on pairs that were held out.

    Raises:
        CompatbenchError: a file that exists, is damaged or has another width than the map, or a
            vector with a NaN.
    """
    out = require_new(Path(out))
    if out.suffix not in SUFFIXES:
        raise CompatbenchError(f"--out {out}: end the name in {', '.join(SUFFIXES)}")
    vectors = open_vectors(index, "the index", column)
    if (index_map is None) == (source is None or target is None):
        raise CompatbenchError("give either --map, or --source and --target")
    name = "the map"
    if index_map is None:
        name = f"'{source}'"
        index_map = map_by_words(str(source), str(target), device)
    elif not isinstance(index_map, IndexMap):
        name = str(index_map)
        index_map = load_index_map(index_map)
    width, new_width = index_map.matrix.shape
    if vectors.width != width:
        raise CompatbenchError(
            f"{vectors.name} has vectors of width {vectors.width}, but {name} is for width "
            f"{width}; give the index of the old model"
        )
    writers = {".npy": _write_npy, ".parquet": _write_parquet, ".faiss": _write_faiss}
    # With one thread, the bytes do not depend on how many threads divide a product.
    with open_atomic(out) as file, threadpool_limits(1, "blas"):
        writers[out.suffix](file, out, vectors, index_map)
    dtype = np.dtype("float32") if out.suffix == ".faiss" else vectors.dtype
    return PortedIndex(out, vectors.rows, new_width, dtype.name, index_map)


def map_by_words(source: str, target: str, device: str) -> IndexMap:
    """Fit an orthogonal map to the text features of a list of words on two CLIP models."""
    from compatbench.backbone import load_backbone
    from compatbench.backbone.device import resolve_device
    from compatbench.backbone.joint_maps import fit_rotation
    from compatbench.backbone.words import WordFeatures
    from compatbench.data.cache_files import default_cache_folder
    from compatbench.data.cards import backbone_cards

    names = backbone_cards.resolve(source), backbone_cards.resolve(target)
    if names[0] == names[1]:
        raise CompatbenchError(f"'{source}' and '{target}' are the same model; nothing to map")
    words = WordFeatures(default_cache_folder())
    old, new = (words.of(load_backbone(name, resolve_device(device))) for name in names)
    judged = fit_map(old.cpu().numpy(), new.cpu().numpy(), kind="orthogonal")
    # The means of words are not those of images, so the map has no bias.
    matrix = fit_rotation(old, new).rotation.cpu().numpy().astype(np.float32)
    bias = np.zeros(matrix.shape[1], np.float32)
    about = judged.about | {"kind": "words", "source": names[0], "target": names[1]}
    return IndexMap(matrix, bias, about)


def _mapped_blocks(vectors: Vectors, index_map: IndexMap) -> Iterator[Array]:
    for _, block in vectors.blocks():
        yield _cast(index_map(block), vectors)


def _cast(mapped: Array, vectors: Vectors) -> Array:
    """Return mapped vectors in the type of the index."""
    if np.abs(mapped).max() > np.finfo(vectors.dtype).max:
        raise CompatbenchError(
            f"{vectors.name}: a mapped number is too large for {vectors.dtype}; convert the index "
            "to float32"
        )
    return mapped.astype(vectors.dtype)


def _write_npy(file: BinaryIO, out: Path, vectors: Vectors, index_map: IndexMap) -> None:
    shape = vectors.rows, index_map.matrix.shape[1]
    header = {"descr": vectors.dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for block in _mapped_blocks(vectors, index_map):
        file.write(block.tobytes())


def _write_parquet(file: BinaryIO, out: Path, vectors: Vectors, index_map: IndexMap) -> None:
    pa = import_package(out)
    width = index_map.matrix.shape[1]
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), width)
    if vectors.column is None:
        schema = pa.schema([(COLUMN, kind)])
        with pa.parquet.ParquetWriter(file, schema) as writer:
            for block in _mapped_blocks(vectors, index_map):
                writer.write_batch(pa.record_batch([_as_lists(pa, block, width)], schema=schema))
        return
    stored = vectors.data.schema_arrow
    place = stored.get_field_index(vectors.column)
    # Metadata of the Hub and of pandas describe the old column.
    schema = stored.set(place, pa.field(vectors.column, kind)).remove_metadata()
    first = 0
    with pa.parquet.ParquetWriter(file, schema) as writer:
        for batch in read_batches(vectors):
            block = parquet_vectors(vectors, batch.column(place))
            vectors.require_finite(block, first)
            columns = batch.columns
            columns[place] = _as_lists(pa, _cast(index_map(block), vectors), width)
            writer.write_batch(pa.record_batch(columns, schema=schema))
            first += len(block)


def _as_lists(pa: Any, block: Array, width: int) -> Any:
    return pa.FixedSizeListArray.from_arrays(pa.array(block.ravel()), width)


def _write_faiss(file: BinaryIO, out: Path, vectors: Vectors, index_map: IndexMap) -> None:
    """Write a flat index; one by inner product, unless the old index has another metric."""
    faiss = import_package(out)
    metric = faiss.METRIC_INNER_PRODUCT
    ids = None
    if vectors.faiss_index is not None:
        metric = vectors.faiss_index.metric_type
        if isinstance(vectors.faiss_index, faiss.IndexIDMap):
            ids = faiss.vector_to_array(vectors.faiss_index.id_map)
    index = faiss.IndexFlat(index_map.matrix.shape[1], metric)
    if ids is not None:
        index = faiss.IndexIDMap(index)
    for block in _mapped_blocks(vectors, index_map):
        block = np.ascontiguousarray(block, np.float32)
        if ids is None:
            index.add(block)
        else:
            index.add_with_ids(block, ids[index.ntotal : index.ntotal + len(block)])
    file.write(faiss.serialize_index(index).tobytes())
