"""Two questions about stored vectors: do they come from one model, and did a runtime change them?

**One model or several.** The vectors of a sample are put into groups without common nearest
neighbours. Kinds of item of one model can form such groups, too, but a model uses the same axes for
all of them. Groups of two models vary along unrelated axes: those of one explain no more of the
other's variance than random axes would.

**A new runtime.** Items that are encoded again have a cosine of 1 with their stored vectors, up to
rounding. What matters is whether a search finds the same items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from compatbench.errors import CompatbenchError
from compatbench.extras.indexes.alignment import require_aligned
from compatbench.extras.indexes.vectors import VectorSource, open_pair, open_vectors, require_width
from compatbench.messages import count_are
from compatbench.results.estimate import Interval, estimate

SAMPLE = 2000  # rows
FEWEST = 200  # with fewer rows, axes of variance are noise
SMALLEST = 50  # rows of a group whose axes are compared
MOST_LEFT = 0.3  # of the rows, in groups that are too small
NEIGHBOURS = 10
AXES = 10
RELATED = 0.3  # share of the own axes' advantage, for groups of one model
UNRELATED = 0.1  # the same, for groups of different models
LEAST_ADVANTAGE = 2.0  # times what random axes explain; otherwise axes show nothing
SAME_RESULTS = 0.98  # share of the ten nearest items
TIE = 1e-3  # cosines that differ by less are in no order
FEWEST_AGAIN = 50  # items that were encoded again
Array = NDArray[np.float64]
Answer = Literal["yes", "no", "cannot tell"]


@dataclass(frozen=True)
class OneModel:
    """The answer to "do all these vectors come from one model?", with its reason.

    Attributes:
        shares: of the rows in each group that one model can have made, the largest first.
    """

    answer: Answer
    sentence: str
    rows: int
    shares: tuple[float, ...] = ()

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class NewRuntime:
    """The answer to "did a new runtime change my vectors?", with its reason.

    Attributes:
        median_cosine, lowest_cosine: of an item's vector and its stored vector.
        same_results: the share of the ten nearest items that both find, with its interval.
    """

    answer: Answer
    sentence: str
    items: int
    median_cosine: float
    lowest_cosine: float
    same_results: Interval

    def __str__(self) -> str:
        return self.sentence


def check_one_model(
    index: VectorSource, *, column: str | None = None, sample: int = SAMPLE, seed: int = 0
) -> OneModel:
    """Find out from a sample whether all vectors of an index come from one model.

    A model with a small share of the rows can be missed. Two models that share an embedding space,
    such as a model and its fine-tuned copy, count as one.

    Args:
        index: an array, or a ``.npy``, parquet or Faiss file.
        column: the column of vectors, if a parquet file has several.
        sample: how many rows to look at.
        seed: of the sample.

    Raises:
        CompatbenchError: no vectors, or a vector with a NaN or of zeros.
    """
    vectors = open_vectors(index, "the vectors", column)
    generator = np.random.default_rng(seed)
    chosen = np.sort(generator.permutation(vectors.rows)[:sample])
    units = vectors.take_units(chosen).astype(np.float64)
    count = len(units)
    if count < FEWEST:
        sentence = f"Cannot tell: {count_are(count, 'row')} too few; at least {FEWEST} are needed."
        return OneModel("cannot tell", sentence, count)
    groups = _find_groups(units)
    large = [group for group in groups if len(group) >= SMALLEST]
    left = count - sum(map(len, large))
    shares = tuple(len(group) / count for group in large)
    if left > MOST_LEFT * count:
        sentence = (
            f"Cannot tell: {left:,} of {count:,} rows are in groups of fewer than {SMALLEST} that "
            "have no common neighbours; look at more rows."
        )
        return OneModel("cannot tell", sentence, count, shares)
    related = _compare_groups([units[group] for group in large])
    joined = _join(related >= RELATED)
    sums = [sum(shares[place] for place in places) for places in joined]
    sizes = tuple(sorted(sums, reverse=True))
    if len(joined) == 1:
        sentence = f"Yes: nothing separates the vectors of {count:,} rows into two models."
        return OneModel("yes", sentence, count, sizes)
    pairs = combinations(joined, 2)
    apart = [(related[np.ix_(*pair)] < UNRELATED).all() for pair in pairs]
    if not all(apart):
        sentence = (
            "Cannot tell: the vectors form groups without common neighbours, which can be kinds of "
            "item of one model, or items of two models."
        )
        return OneModel("cannot tell", sentence, count, sizes)
    listed = ", ".join(f"{100 * share:.0f} %" for share in sizes)
    sentence = (
        f"No: the vectors form {len(joined)} groups ({listed} of {count:,} rows) that have no "
        "common neighbours and vary along unrelated axes, as those of different models do."
    )
    return OneModel("no", sentence, count, sizes)


def _find_groups(units: Array) -> list[NDArray[np.int_]]:
    """Return the rows of each group, the largest first: all rows that neighbours connect."""
    scores = units @ units.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argpartition(-scores, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    linked = np.zeros(scores.shape, bool)
    np.put_along_axis(linked, nearest, True, axis=1)
    # Both must be a neighbour of the other and have one in common: an outlier connects no models.
    mutual = (linked & linked.T).astype(np.float32)
    groups = [np.array(rows) for rows in _join((mutual > 0) & (mutual @ mutual > 0))]
    return sorted(groups, key=len, reverse=True)


def _compare_groups(groups: Sequence[Array]) -> Array:
    """Return how related the axes of groups are, the better of both directions, ``[g, g]``."""
    related = np.full((len(groups), len(groups)), np.nan)
    for first, second in permutations(range(len(groups)), 2):
        related[first, second] = _related(groups[first], groups[second])
    return np.where(np.isnan(related) | np.isnan(related.T), np.nan, np.fmax(related, related.T))


def _related(first: Array, second: Array) -> float:
    """Return how well the axes of one group fit another: 1 as its own axes, 0 as random ones.

    NaN if the own axes of the second group, found on half of its rows, explain hardly more than
    random ones.
    """
    learned = second[::2] - second[::2].mean(axis=0)
    held_out = second[1::2] - second[1::2].mean(axis=0)
    total = np.square(held_out).sum()
    explained = []
    for rows in (learned, first - first.mean(axis=0)):
        axes = np.linalg.svd(rows, full_matrices=False)[2][:AXES]
        explained.append(np.square(held_out @ axes.T).sum() / total)
    by_chance = AXES / second.shape[1]
    own, other = explained
    if own < LEAST_ADVANTAGE * by_chance:
        return float("nan")
    return float((other - by_chance) / (own - by_chance))


def _join(linked: NDArray[np.bool_]) -> list[list[int]]:
    """Return what is linked, directly or not, as lists of numbers."""
    from scipy.sparse.csgraph import connected_components

    number, member = connected_components(linked, directed=False)
    return [np.flatnonzero(member == group).tolist() for group in range(number)]


def check_runtime(
    stored: VectorSource, again: VectorSource, *, column: str | None = None
) -> NewRuntime:
    """Find out whether a new runtime changed vectors, from items that are encoded again.

    A runtime is the program, precision or hardware that computes a model. The answer is "yes" if a
    search with the new vectors finds other items: significantly less than 98 % of the ten nearest.
    Cosines that differ by less than 0.001 count as equal. Files whose vectors have no neighbours
    in common are an error: their rows do not match.

    Args:
        stored: the stored vectors of some items: an array, or a ``.npy``, parquet or Faiss file.
        again: the same items encoded again, in the same rows.
        column: the column of vectors, if a parquet file has several.

    Raises:
        CompatbenchError: different widths or numbers of rows, rows that do not match, or a vector
            with a NaN or of zeros.
    """
    before, after = open_pair((stored, again), "vectors", column)
    require_width(after, before.width, before.name)
    require_aligned(before, after)
    count = min(before.rows, SAMPLE)
    if count <= NEIGHBOURS + 1:
        raise CompatbenchError(
            f"{before.name} has {count} rows; give at least {FEWEST_AGAIN} items that were encoded "
            "again"
        )
    rows = np.arange(count)
    old = before.take_units(rows).astype(np.float64)
    new = after.take_units(rows).astype(np.float64)
    cosines = (old * new).sum(axis=1)
    same = _same_results(old, new)
    interval = estimate(100 * same)
    if interval is None:
        raise CompatbenchError(f"{before.name}: no items can be compared")
    facts = (
        f"cosines of {count:,} items with their stored vectors: median {np.median(cosines):.4f}, "
        f"lowest {cosines.min():.4f}; a search finds {interval.value:.1f} % of the same ten "
        "nearest items"
    )
    answer: Answer = "cannot tell"
    if count < FEWEST_AGAIN:
        start = f"Cannot tell: {count} items are too few, give at least {FEWEST_AGAIN}"
    elif interval.low >= 100 * SAME_RESULTS:
        answer = "no"
        start = "No: the new runtime gives the same results"
    elif interval.high < 100 * SAME_RESULTS:
        answer = "yes"
        start = "Yes: the new runtime changes what a search finds; encode all items with it"
    else:
        start = "Cannot tell: give more items"
    lowest = float(cosines.min())
    median = float(np.median(cosines))
    return NewRuntime(answer, f"{start} ({facts}).", count, median, lowest, interval)


def _same_results(old: Array, new: Array) -> Array:
    """Return the share of the ten nearest stored items that each new vector finds, too, ``[n]``."""
    by_old = old @ old.T
    by_new = new @ old.T
    for scores in (by_old, by_new):
        np.fill_diagonal(scores, -np.inf)  # an item does not find itself
    found = np.argpartition(-by_new, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
    tenth = -np.partition(-by_old, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1 : NEIGHBOURS]
    return (np.take_along_axis(by_old, found, axis=1) >= tenth - TIE).mean(axis=1)
