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
def draw_resamples(count: int, resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.intp]:
    """Indices of ``count`` units drawn with replacement, ``[resamples, count]``, read-only."""
    # The raw stream is the same in every version of numpy; Generator's draws need not be.
    raw = np.random.PCG64(seed).random_raw(resamples * count)
    drawn = (raw % np.uint64(count)).astype(np.intp).reshape(resamples, -1)
    drawn.flags.writeable = False
    return drawn


def percentile_interval(value: float, resampled: ArrayLike, level: float = LEVEL) -> Interval:
    """The middle ``level`` percent of what the resamples gave; those without a figure are left out.

    Raises:
        ValueError: no resample has a figure.
    """
    found = np.asarray(resampled, dtype=float)
    found = found[np.isfinite(found)]
    if len(found) == 0:
        raise ValueError("no resample has a figure")
    outside = (100 - level) / 2
    low, high = np.percentile(found, [outside, 100 - outside])
    return Interval(value, float(low), float(high))


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """The mean of one figure per unit ``[units]``; paired differences are such figures.

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError("a mean needs one figure for each of one or more units")
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(mean)
    return percentile_interval(mean, values[draw_resamples(len(values))].mean(axis=1), level)


def ratio_interval(
    numerators: ArrayLike, denominators: ArrayLike, level: float = LEVEL
) -> Interval | None:
    """The ratio of the means of paired figures ``[units]``, with an interval over the units.

    Returns:
        None if the denominators' mean is not clearly positive: its own interval reaches 0, or
        one unit alone is known.

    Raises:
        ValueError: there are no values, or not as many on one side as on the other.
    """
    above, below = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if above.shape != below.shape:
        raise ValueError("a ratio needs as many figures on one side as on the other")
    if mean_interval(below, level).sign != 1:
        return None
    draws = draw_resamples(len(below))
    means = above[draws].mean(axis=1), below[draws].mean(axis=1)
    resampled = np.divide(*means, out=np.full(len(draws), np.nan), where=means[1] > 0)
    return percentile_interval(float(above.mean() / below.mean()), resampled, level)


def crossed_interval(
    tables: Sequence[ArrayLike], statistic: Callable[..., float], level: float = LEVEL
) -> Interval:
    """A statistic of tables whose rows and columns are both samples.

    Columns (datasets) are the same in all tables and are drawn together; the rows (methods)
    of each table are drawn by themselves. So what differs from method to method counts as
    chance, too, not only what differs from dataset to dataset.

    Args:
        tables: each ``[rows, columns]``, with the same number of columns.
        statistic: of all tables, in the same order.

    Raises:
        ValueError: a table is empty, or the tables have different columns.
    """
    arrays = [np.asarray(table, dtype=float) for table in tables]
    widths = {array.shape[1] if array.ndim == 2 else -1 for array in arrays}
    if len(widths) != 1 or min(array.size for array in arrays) == 0:
        raise ValueError("tables need one or more rows, and the same columns")
    value = float(statistic(*arrays))
    (columns,) = widths
    if columns == 1:
        return Interval(value)
    on_columns = draw_resamples(columns)
    on_rows = [draw_resamples(len(array), seed=SEED + i) for i, array in enumerate(arrays, start=1)]
    resampled = []
    for i, drawn in enumerate(on_columns):
        parts = [array[rows[i]][:, drawn] for array, rows in zip(arrays, on_rows, strict=True)]
        resampled.append(statistic(*parts))
    return percentile_interval(value, resampled, level)


def spearman_interval(x: ArrayLike, y: ArrayLike, level: float = LEVEL) -> Interval | None:
    """Spearman's rank correlation of pairs ``[units]``, with an interval over the units.

    Returns:
        None if it is not defined: fewer than three pairs, or one side is constant.
    """
    from scipy.stats import rankdata

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError("a correlation needs as many figures on one side as on the other")
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rho = float(_row_correlation(rankdata(x)[None], rankdata(y)[None])[0])
    draws = draw_resamples(len(x))
    resampled = _row_correlation(rankdata(x[draws], axis=1), rankdata(y[draws], axis=1))
    return percentile_interval(rho, resampled, level)


def _row_correlation(a: Array, b: Array) -> Array:
    """Pearson's correlation of each row of ``a`` with that of ``b``; NaN where one is constant."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    products = (a * b).sum(axis=1)
    return np.divide(products, norms, out=np.full(len(a), np.nan), where=norms > 0)


def family_means(values: Mapping[str, float], parents: Mapping[str, str]) -> dict[str, float]:
    """One figure per family: the mean of a task and its variants, under the task's name.

    They share one trained module, so they are not independent, and a family counts once.

    Args:
        values: task or variant -> figure.
        parents: variant -> its task; whatever is not in it is a task.
    """
    families: dict[str, list[float]] = {}
    for name, value in values.items():
        families.setdefault(parents.get(name, name), []).append(value)
    return {name: math.fsum(group) / len(group) for name, group in families.items()}
