"""Confidence intervals: a statistic of measurements, and its interval over independent units.

The unit is usually a dataset, because a comparison of methods should hold for other datasets as
well. The seeds of a dataset are averaged first. ``docs/protocol.md`` shows how often such
intervals contain the true value, in a simulation drawn from results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
FEWEST_UNITS = 6  # a verdict needs at least as many
SEED = 20895
LEVEL = 95.0  # percent

Array = NDArray[np.float64]
# Columns by name, all of one length, such as those of a pandas frame.
Frame = Mapping[str, Any] | pd.DataFrame
Percentile = Literal["linear", "inverted_cdf"]
# It takes an array ``[..., units]`` per column, and returns ``[...]``; NaN where it is not defined.
Statistic = Callable[..., Any]


@dataclass(frozen=True)
class Interval:
    """A number and its interval over ``units``; the bounds are infinite if there is one unit."""

    value: float
    low: float = -math.inf
    high: float = math.inf
    units: float = math.inf

    @property
    def decides(self) -> bool:
        """True if a verdict may rest on it: it has bounds, and six units or more."""
        return self.bounded and self.units >= FEWEST_UNITS

    @property
    def sign(self) -> int:
        """1 or -1 if it decides and lies entirely on that side of 0; otherwise 0."""
        if not self.decides:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def bounded(self) -> bool:
        """True if both bounds are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return the columns ``name``, ``name_low`` and ``name_high``; None for what is unknown."""
    columns: dict[str, float | None] = {name: None, f"{name}_low": None, f"{name}_high": None}
    if interval is not None:
        columns[name] = interval.value
        if interval.low > -math.inf:
            columns[f"{name}_low"] = interval.low
            columns[f"{name}_high"] = interval.high
    return columns


def mean(values: Array) -> Any:
    """Return the mean over units of ``[..., units]``, which may be paired differences."""
    return values.mean(axis=-1)


def ratio_of_means(numerators: Array, denominators: Array) -> Any:
    """Return the ratio of two means over units; NaN where the denominator is not positive."""
    above = np.asarray(mean(numerators))
    below = np.asarray(mean(denominators))
    undefined = np.full(below.shape, np.nan)
    return np.divide(above, below, out=undefined, where=below > 0)


def estimate(
    figures: Frame | ArrayLike,
    by: str | None = None,
    statistic: Statistic = mean,
    percentile: Percentile = "linear",
) -> Interval | None:
    """Return a statistic over units with its 95 % interval.

    The interval of a mean is Student's. For other statistics it is a percentile bootstrap over the
    units, at the levels that make it as wide as Student's (Hesterberg, *What Teachers Should Know
    About the Bootstrap*, The American Statistician 69, 2015: the expanded percentile interval).

    Args:
        figures: a tidy frame with a row for each measurement; or one number per unit, ``[units]``.
        by: the column that names the unit of a row. The rows of a unit are averaged first.
            Without it, every row is a unit.
        statistic: a function of the other columns, in their order.
        percentile: how a bound is interpolated between resampled values. With ``inverted_cdf`` it
            is one of them, and so may be infinite.

    Returns:
        None if there are no numbers, if one is missing, or if the statistic is not defined.
    """
    if not isinstance(figures, (Mapping, pd.DataFrame)):
        figures = {"figures": figures}
    if by is not None:
        figures = average_units(figures, by)
    columns = []
    for name in map(str, figures):
        if name == by:
            continue
        column = np.asarray(figures[name], dtype=float)
        if column.size == 0 or np.isnan(column).any():
            return None
        columns.append(column)
    value = float(statistic(*columns))
    if math.isnan(value):
        return None
    units = len(columns[0])
    if units == 1:
        return Interval(value, units=1)
    if statistic is mean:
        reach = _student(units) * float(columns[0].std(ddof=1)) / math.sqrt(units)
        return Interval(value, value - reach, value + reach, units)
    drawn = draw_resamples(units)
    resampled = statistic(*[column[drawn] for column in columns])
    return percentile_interval(value, resampled, units, percentile)


def average_units(figures: Frame, by: str) -> dict[str, Any]:
    """Return the mean of every column over the rows of each unit, in order of first appearance."""
    rows_of: dict[Any, list[int]] = {}
    for row, unit in enumerate(figures[by]):
        rows_of.setdefault(unit, []).append(row)
    averages: dict[str, Any] = {by: list(rows_of)}
    for name in map(str, figures):
        if name == by:
            continue
        values = np.asarray(figures[name], dtype=float).tolist()
        means = []
        for rows in rows_of.values():
            means.append(average([values[row] for row in rows]))
        averages[name] = np.array(means)
    return averages


def average(values: Sequence[float]) -> float:
    """Return the mean of one or more values, the same in any order because ``fsum`` is exact."""
    return math.fsum(values) / len(values)


@lru_cache(maxsize=16)
def draw_resamples(count: int, seed: int = SEED) -> NDArray[np.intp]:
    """Return indices of units drawn with replacement, ``[RESAMPLES, count]``, read-only."""
    # The raw stream is the same in every version of numpy. The draws of Generator need not be.
    raw = np.random.PCG64(seed).random_raw(RESAMPLES * count)
    drawn = (raw % np.uint64(count)).astype(np.intp).reshape(RESAMPLES, -1)
    drawn.flags.writeable = False
    return drawn


def percentile_interval(
    value: float, resampled: ArrayLike, units: int, percentile: Percentile = "linear"
) -> Interval:
    """Return the expanded percentile interval of resampled values; NaN values are left out."""
    values = np.asarray(resampled, dtype=float)
    if units == 1:
        return Interval(value, units=units)
    # A resample's variance is that of the sample, which is too small by a factor 1 − 1/units.
    outside = 50 * math.erfc(_student(units) * math.sqrt(units / (units - 1)) / math.sqrt(2))
    defined = values[~np.isnan(values)]
    low, high = np.percentile(defined, [outside, 100 - outside], method=percentile)
    return Interval(value, float(low), float(high), units)


@cache
def _student(units: float) -> float:
    """Return the quantile of Student's distribution at the upper end of a 95 % interval."""
    from scipy.special import stdtrit

    return float(stdtrit(units - 1, (1 + LEVEL / 100) / 2))


def p_value(difference: Interval) -> float:
    """Return the two-sided p value that belongs to the interval of a difference.

    It is below 5 % if and only if the interval does not contain 0: Student's paired test where the
    interval is Student's. It is 1 without bounds.
    """
    from scipy.special import stdtr

    if not difference.bounded or difference.value == 0:
        return 1.0
    nearest = difference.low if difference.value > 0 else difference.high
    reach = abs(difference.value - nearest)
    if reach == 0:
        return 0.0
    error = reach / _student(difference.units)
    return float(2 * stdtr(difference.units - 1, -abs(difference.value) / error))
