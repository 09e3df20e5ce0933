"""Rankings of items by queries, and how good they are: exact search, and measures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

Array = NDArray[Any]
CUTS = (1, 5, 10, 100)  # of recall; of success the first three
GRADED = 10  # items that nDCG looks at
SCORES, FEWEST_TOGETHER = 1 << 24, 256  # scores, and queries at least, that are computed together


class Ranking(NamedTuple):
    """The first items of every query; where there are fewer, −1 with a score of −∞."""

    rows: Array  # of the items, ``[Q, depth]``
    scores: Array  # inner products, falling, ``[Q, depth]``


def search(
    queries: Array,
    vectors: Array,
    depth: int,
    rows: Array | None = None,
    itself: Array | None = None,
) -> Ranking:
    """The items with the largest inner products, exactly; of equal ones the first rows.

    Args:
        queries: ``[Q, e]``.
        vectors: of the items, ``[n, e]``.
        depth: how many items of each query are kept.
        rows: what the items are called, ``[n]``; by default their numbers.
        itself: the row that each query is not to find, ``[Q]``.
    """
    rows, parts = np.arange(len(vectors)) if rows is None else rows, list[tuple[Array, Array]]()
    step = max(FEWEST_TOGETHER, SCORES // max(len(vectors), 1))
    for first in range(0, max(len(queries), 1), step):
        part = slice(first, first + step)
        scores, places = queries[part] @ vectors.T, np.arange(len(vectors))[None]
        if itself is not None:
            scores[itself[part][:, None] == rows] = -np.inf
        if depth < len(vectors):
            places = np.sort(np.argpartition(-scores, depth - 1, axis=1)[:, :depth], axis=1)
            scores = np.take_along_axis(scores, places, 1)
        order = np.argsort(-scores, axis=1, kind="stable")
        scores = np.take_along_axis(scores, order, 1)
        found = rows[np.take_along_axis(np.broadcast_to(places, scores.shape), order, 1)]
        parts.append((np.where(np.isneginf(scores), -1, found), scores))
    return Ranking(*map(np.concatenate, zip(*parts, strict=True)))


def merge(parts: Iterable[Ranking], depth: int) -> Ranking:
    """One ranking of items that were searched in parts, by their scores."""
    rows, scores = (np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return Ranking(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


@dataclass(frozen=True, eq=False)
class ByClass:
    """An item is relevant to a query of its class, with grade 1."""

    asked: Array  # the class of each query, ``[Q]``
    classes: Array  # of each item, ``[N]``; −1 for an item that is not there
    itself: Array | None = None  # the item that each query is, ``[Q]``

    @property
    def totals(self) -> Array:
        """How many items are relevant to each query, ``[Q]``."""
        kinds, counts = np.unique(self.classes, return_counts=True)
        places = np.searchsorted(kinds, self.asked).clip(max=len(kinds) - 1)
        totals = np.where(kinds[places] == self.asked, counts[places], 0)
        if self.itself is not None:
            totals = totals - (self.classes[self.itself] == self.asked)
        return totals

    @property
    def ideal(self) -> Array:
        """The grades of the best items, falling, ``[Q, GRADED]``."""
        return (np.arange(GRADED) < self.totals[:, None]).astype(float)

    def keep(self, kept: Array) -> ByClass:
        """Without the items that leave, ``[N]``."""
        return replace(self, classes=np.where(kept, self.classes, -1))

    def grade(self, ranked: Array) -> Array:
        """The grades of ranked rows, ``[Q, depth]``."""
        return ((self.classes[ranked] == self.asked[:, None]) & (ranked >= 0)).astype(float)


@dataclass(frozen=True, eq=False)
class Judged:
    """Items with grades above 0, as in TREC's qrels."""

    grades: csr_matrix  # ``[Q, N]``

    @property
    def totals(self) -> Array:
        return self.grades.getnnz(axis=1)

    @property
    def ideal(self) -> Array:
        rows = np.split(self.grades.data, self.grades.indptr[1:-1])
        best = [np.sort(row)[::-1][:GRADED] for row in rows]
        return np.array([np.pad(row, (0, GRADED - len(row))) for row in best])

    def keep(self, kept: Array) -> Judged:
        """Without the items that leave, ``[N]``."""
        grades = csr_matrix(self.grades.multiply(kept))
        grades.eliminate_zeros()
        return Judged(grades)

    def grade(self, ranked: Array) -> Array:
        grades = self.grades[np.arange(len(ranked))[:, None], ranked].toarray()
        return np.where(ranked >= 0, grades, 0.0)


def measure(ranked: Array, relevance: ByClass | Judged) -> dict[str, Array]:
    """The measures of each query, 0 to 1, ``[Q]``; NaN for one without any relevant item.

    ``success@k`` is 1 if a relevant item is among the first k, which image retrieval calls
    Recall@k; ``recall@k`` the share of the relevant items that is; ``mrr`` one over the place of
    the first; ``map`` the mean of the precision at the place of each relevant item; ``ndcg@10``
    Σ grade / log₂(1 + place) over the most that it can be. Items that are not in the ranking count
    as never found. All are those of trec_eval, whose Python packages take a dictionary of every
    query and item: on the galleries of ``retrieve`` they took seven times as long.
    """
    grades, totals = relevance.grade(ranked), relevance.totals
    places, hits = np.arange(1, ranked.shape[1] + 1), grades > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        none = np.where(totals, 1.0, np.nan)
        figures = {f"success@{k}": hits[:, :k].any(1) * none for k in CUTS[:3]}
        figures |= {f"recall@{k}": hits[:, :k].sum(1) / totals for k in CUTS}
        figures["mrr"] = np.where(hits.any(1), 1 / (1 + hits.argmax(1)), 0.0) * none
        figures["map"] = (hits.cumsum(1) / places * hits).sum(1) / totals
        discounts = 1 / np.log2(1 + np.arange(1, GRADED + 1))
        gained = grades[:, :GRADED] @ discounts[: ranked.shape[1]]
        figures["ndcg@10"] = gained / (relevance.ideal @ discounts)
    return figures
