"""The ways to go on with a stored index: how each ranks the items for the queries."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
from numpy.typing import NDArray

from compatbench.extras.indexes.block_threads import Result, map_blocks
from compatbench.extras.indexes.index_maps import FeatureMap, Pair, find_drift, fit_map
from compatbench.extras.indexes.rankings import Array, Ranking, merge, search
from compatbench.extras.indexes.retrieval_files import CEILING, OLD
from compatbench.extras.indexes.unpaired_map import find_unpaired
from compatbench.extras.indexes.vector_files import VectorFile

DEPTH = 1000  # items that are ranked for a query, as in TREC's runs
CASCADES = (50, 200, 1000)  # items of a cascade
SHARES = (10, 50, 90)  # percent of an index that is half-migrated
NEAREST = 10  # of CSLS
BLOCK = 1 << 20  # scores that are computed together
COMPARED = 1 << 14  # pairs of a query and an item that are compared together
Report = Callable[[str], object]
Of = Callable[[Array, Array], Result]  # of rows of items and of their vectors
Turn = Callable[[Array], Array] | None  # of vectors


@dataclass(frozen=True)
class Way:
    """One way, and what it takes.

    Attributes:
        name: ``OLD``, ``copied``, ``rewritten``, ``queries mapped``, ``cascade`` ...
        by: the map.
        pairs: that the map was fitted on.
        at: N of a cascade, or the percentage of an index that is half-migrated.
    """

    name: str
    by: str = ""
    pairs: int = 0
    at: int = 0


# A ranking by one draw, ``[Q, depth]``, and how many items the log of queries has encoded.
Ranked = tuple[Way, Array, int]


@dataclass(frozen=True, eq=False)
class Index:
    """An index on both models, and its queries, which are unit vectors in single precision."""

    old: VectorFile
    new: VectorFile
    asked_old: Array  # ``[Q, e_s]``
    asked_new: Array  # ``[Q, e_t]``
    kept: NDArray[np.bool_]  # rows that stay; pairs do not, ``[N]``
    itself: Array | None = None  # the row that each query is, ``[Q]``

    @property
    def same_width(self) -> bool:
        return self.old.width == self.new.width

    @property
    def depth(self) -> int:
        return min(DEPTH, int(self.kept.sum()))

    def each(
        self, function: Of[Result], side: VectorFile, turn: Turn = None, only: Array | None = None
    ) -> Iterator[Result]:
        """A function of rows that stay and their unit vectors, mapped; ``only`` says which."""
        wanted = self.kept if only is None else self.kept & only

        def of_block(block: Array, first: int) -> Result:
            rows = first + np.flatnonzero(wanted[first : first + len(block)])
            vectors = to_unit(block[rows - first] if len(rows) < len(block) else block)
            return function(rows, vectors if turn is None else turn(vectors))

        per_block = int(np.clip(BLOCK // len(self.asked_new), 256, 4096))
        return map_blocks(of_block, side.blocks(per_block))

    def search(
        self, queries: Array, side: VectorFile, turn: Turn = None, only: Array | None = None
    ) -> Ranking:
        each = partial(self.each, side=side, turn=turn, only=only)
        return search(queries, each, self.depth, self.itself)


def to_unit(vectors: Array) -> Array:
    """Unit vectors in single precision."""
    vectors = vectors.astype(np.float32)
    vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return vectors


@dataclass(frozen=True, eq=False)
class Maps:
    """What maps are fitted on, and the maps.

    Attributes:
        pairs, words: unit vectors of the same items, and of the same texts, on both models.
        counts: how many pairs a map is fitted on, rising.
        draws: an order of the pairs by seed.
        unpaired: unit vectors of different items.
    """

    pairs: Pair
    words: Pair | None
    counts: Sequence[int]
    draws: Mapping[int, Array]
    unpaired: Pair | None

    def names(self) -> list[tuple[str, int, int]]:
        """Every map, with the number of its pairs and the seed; the last is built on."""
        listed = [("mini-vec2vec", 0, 0)] if self.unpaired else []
        listed += [("words", 0, 0)] if self.words else []
        ways = ["drift"] if self.pairs[0].shape == self.pairs[1].shape else []
        return [*listed, *product([*ways, "images", "low-rank", "ridge"], self.counts, self.draws)]

    def fit(self, name: str, count: int, seed: int) -> tuple[FeatureMap | None, FeatureMap]:
        """The maps from old to new, and from new to old; a drift is one of queries alone."""
        if name == "mini-vec2vec":
            assert self.unpaired is not None
            there, back = find_unpaired(*self.unpaired)
            return there.in_single(), back.in_single()
        pairs = self.draw(count, seed)
        if name == "drift":
            assert pairs is not None
            return None, find_drift(*_turned(pairs)).in_single()
        there = fit_map(name, self.words, pairs)
        back = fit_map(name, self.words and _turned(self.words), pairs and _turned(pairs))
        return there.in_single(), back.in_single()

    def draw(self, count: int, seed: int) -> Pair | None:
        """The pairs of a draw."""
        if not count:
            return None
        rows = self.draws[seed][:count]
        return self.pairs[0][rows], self.pairs[1][rows]


def _turned(pair: Pair) -> Pair:
    return pair[1], pair[0]


def rank_ways(index: Index, maps: Maps, again: Ranking, report: Report) -> Iterator[Ranked]:
    """Every way's ranking; ``again`` is that of the index that is encoded again."""
    yield Way(OLD), index.search(index.asked_old, index.old).rows, 0
    if index.same_width:
        yield Way("copied"), index.search(index.asked_new, index.old).rows, 0
    listed = maps.names()
    for name, count, seed in listed:
        report(f"{name}{f' of {count:,} pairs, draw {seed}' if count else ''}")
        there, back = maps.fit(name, count, seed)
        if there is not None:
            rewritten = index.search(index.asked_new, index.old, there)
            yield Way("rewritten", name, count), rewritten.rows, 0
        mapped = to_unit(back(index.asked_new))
        ranking = index.search(mapped, index.old)
        yield Way("queries mapped", name, count), ranking.rows, 0
        if there is not None and (name, count) == listed[-1][:2]:
            if (pairs := maps.draw(count, seed)) is not None:
                hubs = to_unit(back(pairs[1].astype(np.float32)))
                yield Way("queries mapped, CSLS", name, count), _csls(index, mapped, hubs), 0
            yield from _cascades(index, (name, count), ranking)
            yield from _parts(index, (name, count), there, mapped, seed)
    yield Way(CEILING), again.rows, 0


def _csls(index: Index, queries: Array, hubs: Array) -> Array:
    """Ranked by 2 cos − r, with r the mean cosine of an item to the nearest of the hubs."""
    count = min(NEAREST, len(hubs))

    def with_hubs(vectors: Array) -> Array:
        near = np.partition(-(vectors @ hubs.T), count - 1, axis=1)[:, :count]
        return np.hstack([vectors, near.mean(axis=1, keepdims=True)])

    twice = np.hstack([2 * queries, np.ones((len(queries), 1), np.float32)])
    return index.search(twice, index.old, with_hubs).rows


def _cascades(index: Index, by: tuple[str, int], ranking: Ranking) -> Iterator[Ranked]:
    """The first N of the mapped queries, ranked by their new vectors; the others stay behind."""
    fresh = _compare(index, ranking.rows[:, : CASCADES[-1]])
    for first in (n for n in CASCADES if n < index.kept.sum()):
        head, tail = ranking.rows[:, :first], ranking.rows[:, first:]
        order = np.argsort(-fresh[:, :first], axis=1, kind="stable")
        rows = np.hstack([np.take_along_axis(head, order, 1), tail])
        encoded = len(np.unique(head[head >= 0]))
        yield Way("cascade", *by, first), rows, encoded


def _compare(index: Index, rows: Array) -> Array:
    """The new model's cosine of each query with the items of its ranking, ``rows.shape``."""
    flat, scores = rows.ravel(), np.full(rows.size, -np.inf, np.float32)
    order = np.argsort(flat, kind="stable")

    def compare(there: Array, vectors: Array) -> None:
        if not len(there):
            return
        low, high = np.searchsorted(flat, [there[0], there[-1] + 1], sorter=order)
        for start in range(low, high, COMPARED):
            pairs = order[start : min(high, start + COMPARED)]
            asked = index.asked_new[pairs // rows.shape[1]]
            items = vectors[np.searchsorted(there, flat[pairs])]
            scores[pairs] = np.einsum("ij,ij->i", asked, items)

    deque(index.each(compare, index.new), 0)
    return scores.reshape(rows.shape)


def _parts(
    index: Index, by: tuple[str, int], there: FeatureMap, mapped: Array, seed: int
) -> Iterator[Ranked]:
    """Indexes that are half-migrated, with a query for each part, and with the new one for both."""
    drawn = np.random.default_rng(seed).random(len(index.kept))
    for share in SHARES:
        moved = drawn < np.quantile(drawn, share / 100)
        left = {"both served": index.search(mapped, index.old, only=~moved)}
        if index.same_width:
            left["new query"] = index.search(index.asked_new, index.old, only=~moved)
        ways = {"rewritten": (index.old, there), "re-encoded": (index.new, None)}
        for what, (side, turn) in ways.items():
            done = index.search(index.asked_new, side, turn, moved)
            for served, part in left.items():
                rows = merge([part, done], index.depth).rows
                yield Way(f"partly {what}, {served}", *by, share), rows, 0
