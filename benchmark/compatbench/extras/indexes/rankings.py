"""Rankings of items by queries, and how good they are: exact search by blocks, and measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CUTS = (1, 5, 10, 100)  # of recall; of success the first three
GRADED = 10  # items that nDCG looks at


class Ranking(NamedTuple):
    """The first items of every query; where there are fewer, −1 with a score of −∞."""

    rows: Array  # of the items, ``[Q, depth]``
    scores: Array  # inner products, falling, ``[Q, depth]``


Each = Callable[[Callable[[Array, Array], Ranking]], Iterable[Ranking]]


def search(queries: Array, each: Each, depth: int, itself: Array | None = None) -> Ranking:
    """The items with the largest inner products, exactly; of equal ones the first rows.

    Beyond the first ``depth`` of a query only items above the last of its best are looked at; the
    best are chosen anew when as many have been gathered.

    Args:
        queries: ``[Q, e]``.
        each: calls a function with rows of items, rising, and their vectors ``[n, e]``, block by
            block, and gives what it returns, in this order.
        depth: how many items of each query are kept.
        itself: the row that each query is not to find, ``[Q]``.
    """
    least = np.full((len(queries), 1), -np.inf, np.result_type(queries))  # that is still kept

    def reach(rows: Array, vectors: Array) -> Ranking:
        scores = queries @ vectors.T
        if itself is not None and len(rows):
            # Where a row of the block is that of a query.
            places = np.minimum(np.searchsorted(rows, itself), len(rows) - 1)
            hit = rows[places] == itself
            scores[hit, places[hit]] = -np.inf
        return _pick(rows, scores, scores >= least)

    parts, width = list[Ranking](), 0
    for part in each(reach):
        parts, width = [*parts, part], width + part.rows.shape[1]
        if width > 2 * depth:
            parts, width = [_keep(_join(parts), depth)], depth
            last = parts[0].scores.min(axis=1, keepdims=True)
            least = np.nextafter(last, np.inf, dtype=least.dtype)  # later rows lose a tie
    return _sort(_keep(_join(parts), depth))


def merge(parts: Iterable[Ranking], depth: int) -> Ranking:
    """One ranking of items that were searched in parts, by their scores."""
    rows, scores = _sort(_join(parts))
    return Ranking(rows[:, :depth], scores[:, :depth])


def _join(parts: Iterable[Ranking]) -> Ranking:
    return Ranking(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))


def _pick(rows: Array, scores: Array, picked: Array) -> Ranking:
    """The picked ``[Q, n]`` of the items, in their order, with nothing behind the last."""
    places = np.flatnonzero(picked)
    if len(places) == picked.size:
        return Ranking(np.broadcast_to(rows, scores.shape), scores)
    query, column = np.divmod(places, len(rows))
    counts = np.bincount(query, minlength=len(scores))
    place = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
    few = np.full((len(scores), counts.max(initial=0)), -np.inf, scores.dtype)
    few_rows = np.full(few.shape, -1)
    few[query, place], few_rows[query, place] = scores.ravel()[places], rows[column]
    return Ranking(few_rows, few)


def _keep(items: Ranking, depth: int) -> Ranking:
    """The best of each query, in the order that they are in; of equal ones the first."""
    if items.rows.shape[1] <= depth:
        return items
    last = np.partition(items.scores, -depth, axis=1)[:, [-depth]]
    kept = items.scores > last
    equal = items.scores == last
    kept |= equal & (equal.cumsum(axis=1) <= depth - kept.sum(axis=1, keepdims=True))
    return Ranking(*(each[kept].reshape(-1, depth) for each in items))


def _sort(best: Ranking) -> Ranking:
    order = np.argsort(-best.scores, axis=1, kind="stable")
    rows, scores = (np.take_along_axis(each, order, 1) for each in best)
    return Ranking(np.where(np.isneginf(scores), -1, rows), scores)


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

    queries: Array  # the query of each judgement, ``[J]``
    items: Array  # ``[J]``
    grades: Array  # ``[J]``
    count: int  # of queries
    keys: Array = field(init=False)  # by which a pair is found

    def __post_init__(self) -> None:
        order = np.lexsort((self.items, self.queries))
        for name in ("queries", "items", "grades"):
            object.__setattr__(self, name, np.asarray(getattr(self, name))[order])
        object.__setattr__(self, "keys", self._key(self.queries, self.items))

    @staticmethod
    def _key(queries: Array, items: Array) -> Array:
        return queries.astype(np.int64) << 32 | items.astype(np.int64)

    @property
    def totals(self) -> Array:
        return np.bincount(self.queries, minlength=self.count)

    @property
    def ideal(self) -> Array:
        order = np.lexsort((-self.grades, self.queries))
        place = np.arange(len(order)) - (np.cumsum(self.totals) - self.totals)[self.queries]
        best, first = np.zeros((self.count, GRADED)), place < GRADED
        best[self.queries[first], place[first]] = self.grades[order][first]
        return best

    def keep(self, kept: Array) -> Judged:
        """Without the items that leave, ``[N]``."""
        there = kept[self.items]
        return Judged(self.queries[there], self.items[there], self.grades[there], self.count)

    def grade(self, ranked: Array) -> Array:
        if not len(self.keys):
            return np.zeros(ranked.shape)
        keys = self._key(np.arange(self.count)[:, None], ranked)
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where((self.keys[places] == keys) & (ranked >= 0), self.grades[places], 0.0)


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
