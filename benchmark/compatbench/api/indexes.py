"""Stored indexes of image embeddings, in an upgrade of the model that made them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compatbench.engine.index_port import PortedIndex


def port_index(
    index: str | Path,
    source: str,
    target: str,
    *,
    way: str | None = None,
    images: str | Path | tuple[NDArray[Any], NDArray[Any]] | None = None,
    out: str | Path | None = None,
    column: str | None = None,
    device: str = "auto",
    progress: Callable[[str], object] = lambda line: None,
) -> PortedIndex:
    """Writes a stored index of image embeddings for another backbone; nothing is encoded again.

    The index is read and written block by block, in memory that does not grow with it. Numbers
    keep their type, rows their order, vectors their length; ids and other columns are kept. A
    file appears whole or not at all, with its facts in a JSON beside it.

    Args:
        index: a ``.npy`` matrix, a parquet file with a column of lists, or a flat Faiss index.
        source, target: the model that made the index, and the one that queries will come from.
        way: ``words`` (nothing but the two models), ``images``, ``low-rank``, ``ridge`` (the two
            models' vectors of some images), or ``copied``, which writes nothing. By default
            ``ridge`` with images and ``words`` without.
        images: a folder of images, which both models encode; or their vectors on both, two
            matrices ``[n, e]`` with the same images in the same rows.
        out: the file to write; by default INDEX-for-MODEL in this folder.
        column: of the vectors, where a parquet file has several.

    Returns:
        Where the index is, how near the map comes to the new model, and the recall to expect, if
        this upgrade was measured.

    Raises:
        CompatbenchError: a file that is damaged, of another kind or another width than the
            source's, a vector that is not finite, an unknown name, too few images, or a file that
            exists.
    """
    from compatbench.engine.index_port import port_index
    from compatbench.results.retrieval import find_expected

    return port_index(
        Path(index),
        source,
        target,
        way,
        Path(images) if isinstance(images, str) else images,
        None if out is None else Path(out),
        column,
        device,
        find_expected,
        progress,
    )
