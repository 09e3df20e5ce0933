"""What stored vectors of any embedding are worth to its successor, with no model loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.block_threads import map_blocks
from compatbench.extras.indexes.index_maps import LEAST_PAIRS, PAIRS, SEEDS, choose_numbers
from compatbench.extras.indexes.index_verdicts import MeasuredIndex, summarise
from compatbench.extras.indexes.index_ways import Index, Maps, Report, Way, rank_ways, to_unit
from compatbench.extras.indexes.rankings import ByClass, Judged, measure
from compatbench.extras.indexes.relevance_files import Names, read_relevance
from compatbench.extras.indexes.unpaired_map import FEWEST
from compatbench.extras.indexes.vector_files import VectorFile, as_vectors, check_lengths, read_pair

MOST_QUERIES = 2000  # rows of the index that ask, evenly over it, where no queries are given
AGREED = 10  # neighbours in the index that is encoded again, where no relevance is known
SAMPLED = 5000  # old vectors that the map without pairs sees
VectorSource = str | Path | NDArray[Any]


def measure_index(
    old: VectorSource,
    new: VectorSource,
    *,
    queries: tuple[VectorSource, VectorSource] | None = None,
    relevant: str | Path | pd.DataFrame | None = None,
    labels: Names | None = None,
    query_labels: Names | None = None,
    ids: tuple[Names, Names] | None = None,
    words: tuple[VectorSource, VectorSource] | None = None,
    paired: tuple[VectorSource, VectorSource] | None = None,
    pairs: Sequence[int] = PAIRS,
    seeds: Sequence[int] = SEEDS,
    column: str | None = None,
    progress: Report = lambda line: None,
) -> MeasuredIndex:
    """Measures what to do with stored vectors when their model is replaced: text, image, audio.

    No model is loaded. Vectors are compared by cosine, exactly, and read block by block. The pairs
    that maps are fitted on are rows of the index that are not queried; they leave it, in every
    way alike, and so do not answer. What is drawn is drawn several times, and figures are means.

    Args:
        old, new: the same things encoded by both models, in the same rows: arrays, or ``.npy``,
            parquet, safetensors or flat Faiss files. Widths may differ.
        queries: vectors of the queries on the old and on the new model; by default every
            second row of the index, 2,000 at most, which does not find itself.
        relevant: relevant items of queries: TREC's qrels, or a CSV with columns query, item and
            grade. Without it and without labels, the ten neighbours that each query has in the
            index that is encoded again are taken for relevant.
        labels, query_labels: in its place, a class of each item and of each query: lines of a
            text, or a ``.npy``; an item is relevant to queries of its class.
        ids: of the items and of the queries, as ``relevant`` has them; by default row numbers.
        words: vectors of the same texts on both models, for the way ``words``; those that are
            queried are left out.
        paired: vectors of other things on both models, to fit maps on in place of rows.
        pairs: how many pairs maps are fitted on; by default 64, 256 and 1024, as far as half of
            the rows go. 0 leaves out the ways that need any.
        seeds: of the draws.
        column: of the vectors, where a parquet file has several.

    Returns:
        ``frame`` has a row for each way, with intervals and prices; ``str()`` the verdict.

    Raises:
        CompatbenchError: vectors of different rows, with a NaN or of zeros, ids that are unknown,
            or pairs that are queried, too.
    """
    files = as_vectors(old, "the old vectors", column), as_vectors(new, "the new vectors", column)
    count = files[0].rows
    if count != files[1].rows:
        raise CompatbenchError(
            f"{files[0].path} has {count:,} rows and {files[1].path} {files[1].rows:,}: give "
            "vectors of the same things, in the same rows"
        )
    marks, _ = (_read_marks(file) for file in files)
    itself = None
    if queries is None:
        itself = np.arange(count)[:: max(2, -(-count // MOST_QUERIES))]
        asked = tuple(_take(file, itself) for file in files)
    else:
        asked = _read_units(queries, "queries", files)
    by, counts = (relevant, labels, query_labels), (count, len(asked[0]))
    relevance = read_relevance(*by, ids, counts, itself)
    queried = np.isin(marks, marked := _mark(asked[0]))
    if paired is not None:
        stock = _read_units(paired, "pairs", files)
        if (same := np.isin(_mark(stock[0]), marked)).any():
            raise CompatbenchError(
                f"{int(same.sum()):,} of the pairs are also queried, the first in row "
                f"{int(same.argmax()):,}: maps must be fitted on others; drop these pairs"
            )
        left, most = np.empty(0, np.intp), len(stock[0])
    else:
        left = _choose_pairs(queried, relevance, max(pairs, default=0))
        stock, most = tuple(_take(file, left) for file in files), len(left)
    numbers = choose_numbers(pairs, seeds, most)
    kept = ~np.isin(np.arange(count), left)
    index = Index(*files, asked[0], asked[1], kept, itself)
    draws = {seed: np.random.default_rng(seed).permutation(most) for seed in seeds}
    others = np.random.default_rng(0).permutation(np.flatnonzero(kept & ~queried))[:SAMPLED]
    enough = numbers and min(most, len(others)) >= FEWEST
    unpaired = (_take(files[0], np.sort(others)), stock[1]) if enough else None
    texts = None if words is None else _read_units(words, "words", files)
    if texts is not None:
        others = ~np.isin(_mark(texts[0]), marked)
        if others.sum() < LEAST_PAIRS:
            raise CompatbenchError(f"words: give {LEAST_PAIRS} or more that are not queried")
        texts = texts[0][others], texts[1][others]
    maps = Maps((stock[0], stock[1]), texts, numbers, draws, unpaired)
    again = index.search(index.asked_new, index.new)
    known = relevance is not None
    if relevance is None:
        best = again.rows[:, :AGREED]
        asking = np.indices(best.shape)[0].ravel()
        relevance = Judged(asking, best.ravel(), np.ones(best.size), len(best))
    relevance = relevance.keep(kept)
    figures: dict[Way, list[dict[str, Any]]] = {}
    for way, rows, encoded in rank_ways(index, maps, again, progress):
        figures.setdefault(way, []).append(measure(rows, relevance) | {"encoded": encoded})
    return summarise(index, figures, known)


def _read_marks(file: VectorFile) -> NDArray[np.uint64]:
    """``_mark`` of every vector, which must be one: finite, and not all zeros."""

    def marked(block: NDArray[Any], first: int) -> NDArray[np.uint64]:
        check_lengths(file.path, block.astype(np.float64), first, zeros=False)
        return _mark(to_unit(block))

    return np.concatenate([*map_blocks(marked, file.blocks())])


def _mark(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """A number for each vector, which is the same for the same alone, ``[n]``."""
    factors = np.random.default_rng(0).integers(1, 1 << 62, vectors.shape[1], np.uint64)
    bits = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
    return (bits * factors).sum(axis=1, dtype=np.uint64)


def _take(file: VectorFile, rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """Unit vectors of some rows, which rise."""

    def taken(block: NDArray[Any], first: int) -> NDArray[np.float32]:
        low, high = np.searchsorted(rows, [first, first + len(block)])
        return to_unit(block[rows[low:high] - first])

    return np.concatenate([*map_blocks(taken, file.blocks())])


def _read_units(
    pair: tuple[VectorSource, VectorSource], what: str, files: Sequence[VectorFile]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    old, new = read_pair(pair, what, [file.width for file in files])
    return to_unit(old), to_unit(new)


def _choose_pairs(
    queried: NDArray[np.bool_], relevance: ByClass | Judged | None, most: int
) -> NDArray[np.intp]:
    """Rows that are not queried, and if there are enough not relevant either, twice ``most``."""
    free, wanted = np.flatnonzero(~queried), min(2 * most, len(queried) // 2)
    if isinstance(relevance, Judged):
        others = np.setdiff1d(free, relevance.items)
        free = others if len(others) >= wanted else free
    return np.sort(np.random.default_rng(0).permutation(free)[:wanted])
