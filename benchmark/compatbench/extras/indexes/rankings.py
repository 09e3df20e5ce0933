"""Exact search in blocks of an index, and how good the results are: recall and nDCG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compatbench.extras.indexes.relevance import Relevance

GRADED = 10  # results that nDCG looks at
Array = NDArray[Any]


def search(
    queries: Array,
    blocks: Iterable[tuple[int, Array]],
    depth: int,
    *,
    left_out: Array | None = None,
    itself: Array | None = None,
    change: Callable[[Array], Array] | None = None,
) -> Array:
    """Return the rows with the largest inner products for each query, best first, ``[Q, depth]``.

    Equal products are ranked by row. Where there are fewer rows than ``depth``, -1 fills the rest.

    Args:
        queries: ``[Q, e]``.
        blocks: the first row of each block, and its vectors.
        depth: how many rows are returned for each query.
        left_out: rows that are never found, as a mask over all rows.
        itself: the row that each query is, which it does not find, ``[Q]``.
        change: is applied to the vectors of a block before they are compared.
    """
    best_scores = np.full((len(queries), depth), -np.inf, np.float32)
    best_rows = np.full((len(queries), depth), -1)
    for first, block in blocks:
        vectors = block if change is None else change(block)
        scores = queries @ vectors.T
        if left_out is not None:
            scores[:, left_out[first : first + len(block)]] = -np.inf
        if itself is not None:
            asking = np.flatnonzero((itself >= first) & (itself < first + len(block)))
            scores[asking, itself[asking] - first] = -np.inf
        # Of later blocks, few rows are better than what some query has found; equal ones lose.
        better = (scores > best_scores.min(axis=1, keepdims=True)).any(axis=0)
        scores = scores[:, better]
        rows = np.broadcast_to(first + np.flatnonzero(better), scores.shape)
        # Rows of earlier blocks stand first, so they win a tie.
        best_scores, best_rows = _keep_largest(
            np.concatenate([best_scores, scores], axis=1),
            np.concatenate([best_rows, rows], axis=1),
            depth,
        )
    order = np.argsort(-best_scores, axis=1, kind="stable")
    best_rows = np.where(np.isneginf(best_scores), -1, best_rows)
    return np.take_along_axis(best_rows, order, axis=1)


def _keep_largest(scores: Array, rows: Array, depth: int) -> tuple[Array, Array]:
    """Return the ``depth`` largest scores of each query in their order; ties go to the first."""
    last = np.partition(scores, -depth, axis=1)[:, [-depth]]
    larger = scores > last
    equal = scores == last
    free = depth - larger.sum(axis=1, keepdims=True)
    kept = larger | (equal & (np.cumsum(equal, axis=1) <= free))
    shape = (len(scores), depth)
    return scores[kept].reshape(shape), rows[kept].reshape(shape)


def recall(ranked: Array, relevance: Relevance, k: int) -> Array:
    """Return the share of each query's relevant items that are among its first k, ``[Q]``."""
    found = relevance.grades(ranked[:, :k]) > 0
    return found.sum(axis=1) / relevance.counts()


def ndcg(ranked: Array, relevance: Relevance) -> Array:
    """Return Σ grade / log₂(1 + rank) of the first ten, divided by its maximum, ``[Q]``."""
    discounts = 1 / np.log2(np.arange(2, GRADED + 2))
    grades = relevance.grades(ranked[:, :GRADED])
    gained = grades @ discounts[: grades.shape[1]]
    return gained / (relevance.best_grades(GRADED) @ discounts)
