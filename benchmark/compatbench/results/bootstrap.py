"""Percentile bootstraps over datasets: how sure a mean, a difference or a correlation is.

The unit is a dataset, for methods are compared to say something of datasets not seen. With
few of them the intervals are too narrow: of eight, a 95 % interval of a mean holds the true
one in about 90 % of cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compatbench.results.expected import Expected, Upgrade
from compatbench.results.standing import Mean, MeasureName, Standing, compute_standing
from compatbench.results.store import MethodResults

RESAMPLES = 2000
SEED = 20895
LEVEL = 95.0  # percent

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval; without bounds where one unit alone is known."""

    value: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def sign(self) -> int:
        """1 or -1 if all of the interval lies on that side of 0, or else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@lru_cache(maxsize=16)
def draw_resamples(count: int, seed: int = SEED) -> NDArray[np.intp]:
    """Indices of ``count`` units drawn with replacement, ``[RESAMPLES, count]``, read-only."""
    # The raw stream is the same in every version of numpy; Generator's draws need not be.
    raw = np.random.PCG64(seed).random_raw(RESAMPLES * count)
    drawn = (raw % np.uint64(count)).astype(np.intp).reshape(RESAMPLES, -1)
    drawn.flags.writeable = False
    return drawn


def percentile_interval(value: float, resampled: ArrayLike) -> Interval:
    """The middle 95 percent of what the resamples gave; those without a figure are left out."""
    found = np.asarray(resampled, dtype=float)
    outside = (100 - LEVEL) / 2
    low, high = np.percentile(found[np.isfinite(found)], [outside, 100 - outside])
    return Interval(value, float(low), float(high))


def mean_interval(values: ArrayLike) -> Interval:
    """The mean of one figure per unit ``[units]``; paired differences are such figures."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean)
    return percentile_interval(mean, values[draw_resamples(len(values))].mean(axis=1))


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike) -> Interval | None:
    """The ratio of the means of paired figures ``[units]``, with an interval over the units.

    None if the denominators' mean is not clearly positive: its own interval reaches 0, or one
    unit alone is known.
    """
    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if mean_interval(below).sign != 1:
        return None
    draws = draw_resamples(len(below))
    means = above[draws].mean(axis=1), below[draws].mean(axis=1)
    resampled = np.divide(*means, out=np.full(len(draws), np.nan), where=means[1] > 0)
    return percentile_interval(float(above.mean() / below.mean()), resampled)


def spearman_interval(x: ArrayLike, y: ArrayLike) -> Interval | None:
    """Spearman's rank correlation of pairs ``[units]``, with an interval over the units.

    None if it is not defined: fewer than three pairs, or one side is constant.
    """
    from scipy.stats import rankdata

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rho = float(_row_correlation(rankdata(x)[None], rankdata(y)[None])[0])
    draws = draw_resamples(len(x))
    resampled = _row_correlation(rankdata(x[draws], axis=1), rankdata(y[draws], axis=1))
    return percentile_interval(rho, resampled)


def _row_correlation(a: Array, b: Array) -> Array:
    """Pearson's correlation of each row of ``a`` with that of ``b``; NaN where one is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    products = (a * b).sum(axis=1)
    return np.divide(products, norms, out=np.full(len(a), np.nan), where=norms > 0)


def crossed_interval(tables: Sequence[Array], statistic: Callable[..., float]) -> Interval:
    """A statistic of tables whose rows and columns are both samples.

    Columns (datasets) are the same in all tables, each ``[rows, columns]``, and are drawn
    together; the rows (methods) of each table are drawn by themselves. So what differs from
    method to method counts as chance, too, not only what differs from dataset to dataset.
    """
    value, columns = float(statistic(*tables)), tables[0].shape[1]
    if columns == 1:
        return Interval(value)
    on_rows = [draw_resamples(len(table), seed=SEED + i) for i, table in enumerate(tables, 1)]
    resampled = []
    for i, drawn in enumerate(draw_resamples(columns)):
        parts = [table[rows[i]][:, drawn] for table, rows in zip(tables, on_rows, strict=True)]
        resampled.append(statistic(*parts))
    return percentile_interval(value, resampled)


def family_means(values: Mapping[str, float], parents: Mapping[str, str]) -> dict[str, float]:
    """One figure per family: the mean of a task and its variants, under the task's name.

    They share one trained module, so they are not independent, and a family counts once.
    Whatever has no parent is a task.
    """
    families: dict[str, list[float]] = {}
    for name, value in values.items():
        families.setdefault(parents.get(name, name), []).append(value)
    return {name: math.fsum(group) / len(group) for name, group in families.items()}


def dataset_means(standing: Standing, measure: MeasureName) -> dict[str, float] | None:
    """A measure per dataset, in mean over seeds and over the upgrades that were joined.

    A task counts once, however many upgrades it was measured on: all come from one set of
    modules. None if anything is missing.
    """
    means = {task: standing.mean(measure, task) for task in standing.tasks}
    values = {task: mean.value for task, mean in means.items() if mean is not None}
    if not values or len(values) < len(means) or (standing.rows["target"] < 0).any():
        return None
    return family_means(values, dict(zip(standing.tasks, standing.datasets, strict=True)))


def measure_interval(standing: Standing, measure: MeasureName) -> Interval | None:
    """The mean of a measure over datasets with its 95 % interval; None if anything is missing."""
    means = dataset_means(standing, measure)
    return None if means is None else mean_interval(list(means.values()))


def paired_interval(one: Standing, other: Standing, measure: MeasureName) -> Interval | None:
    """The mean difference ``one`` − ``other`` over datasets; None if anything is missing."""
    own, theirs = dataset_means(one, measure), dataset_means(other, measure)
    if own is None or theirs is None:
        return None
    return mean_interval([own[dataset] - theirs[dataset] for dataset in own])


def compute_retained(
    results: MethodResults, expected: Expected, upgrade: Upgrade, shots: int
) -> tuple[Mean | None, Mean | None, Interval | None]:
    """Gains of the old module and of one retrained on the target, and the share that it keeps.

    The share is the ratio of two means over datasets and seeds, not the mean of ratios: on a
    dataset where retraining gains next to nothing the ratio is next to anything, and one such
    dataset would decide the mean. There is no share of a gain whose 95 % interval reaches 0. Gains
    are in points over zero-shot, the share in percent; None where a cell is missing.
    """
    attached = compute_standing(results, expected, upgrade, shots)
    # A module that was fitted on the target is its own source.
    retrained = compute_standing(results, expected, (upgrade[1], upgrade[1]), shots)
    own, anew = dataset_means(attached, "gain"), dataset_means(retrained, "gain")
    kept = None
    if own is not None and anew is not None:
        kept = ratio_interval([100 * gain for gain in own.values()], list(anew.values()))
    return attached.mean("gain"), retrained.mean("gain"), kept
