"""How sure a figure is: a statistic of what was measured, and its interval over independent units.

The unit is most often a dataset, for methods are compared to say something of datasets not seen;
seeds of a dataset are averaged first. ``docs/intervals.md`` has how often such intervals hold the
true value, in a simulation drawn from results.
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

from compatbench.harmonic_mean import harmonic_mean

RESAMPLES = 2000
FEWEST_UNITS = 6  # that a verdict may rest on
SEED = 20895
LEVEL = 95.0  # percent

Array = NDArray[np.float64]
# Columns by name, all of one length, such as those of a pandas frame.
Frame = Mapping[str, Any] | pd.DataFrame
Percentile = Literal["linear", "inverted_cdf"]
# Of one array ``[..., units]`` for every column, it gives ``[...]``; NaN where it is not defined.
Statistic = Callable[..., Any]


@dataclass(frozen=True)
class Interval:
    """A figure and its interval over ``units``; without bounds where one alone is known."""

    value: float
    low: float = -math.inf
    high: float = math.inf
    units: float = math.inf

    @property
    def decides(self) -> bool:
        """Whether a verdict may rest on it: it has bounds, and six units or more."""
        return self.bounded and self.units >= FEWEST_UNITS

    @property
    def sign(self) -> int:
        """1 or -1 if it decides, and lies on that side of 0 as a whole; or else 0."""
        return (int(self.low > 0) - int(self.high < 0)) * self.decides

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    """The columns ``name``, ``name_low`` and ``name_high`` of a frame; None for what is unknown."""
    low = high = None
    if interval is not None and interval.low > -math.inf:
        low, high = interval.low, interval.high
    return {name: interval and interval.value, f"{name}_low": low, f"{name}_high": high}


def mean(values: Array) -> Any:
    """The mean over units; paired differences are such values."""
    return values.mean(axis=-1)


def harmonic_mean_of_means(first: Array, second: Array) -> Any:
    """The harmonic mean of two means over units."""
    return harmonic_mean(mean(first), mean(second))


def ratio_of_means(numerators: Array, denominators: Array) -> Any:
    """The ratio of two means over units; NaN where the denominator is not positive."""
    above, below = np.asarray(mean(numerators)), np.asarray(mean(denominators))
    return np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)


def estimate(
    figures: Frame | ArrayLike,
    by: str | None = None,
    statistic: Statistic = mean,
    percentile: Percentile = "linear",
) -> Interval | None:
    """A statistic over units with its 95 % interval.

    Of a mean it is Student's. Of other statistics it is a percentile bootstrap over the units, at
    the levels that make it as wide as Student's (Hesterberg, *What Teachers Should Know About the
    Bootstrap*, The American Statistician 69, 2015: the expanded percentile interval).

    Args:
        figures: a tidy frame with a row for each measurement; or one figure per unit, ``[units]``.
        by: the column that names the unit of a row; the rows of a unit are averaged first.
            Without it every row is a unit.
        statistic: is given the other columns in their order.
        percentile: how bounds lie between resampled values; with ``inverted_cdf`` a bound is one of
            them, so that it may be infinite.

    Returns:
        None if there are no figures, if one is missing, or if the statistic is not defined.
    """
    if not isinstance(figures, (Mapping, pd.DataFrame)):
        figures = {"figures": figures}
    if by is not None:
        figures = average_units(figures, by)
    columns = [np.asarray(figures[name], dtype=float) for name in map(str, figures) if name != by]
    if any(column.size == 0 or np.isnan(column).any() for column in columns):
        return None
    value = float(statistic(*columns))
    if math.isnan(value):
        return None
    units = len(columns[0])
    if units == 1:
        return Interval(value, units=1)
    if statistic is mean:
        reach = _student(units) * float(columns[0].std(ddof=1)) / math.sqrt(units)
        return Interval(value, value - reach, value + reach, units)
    resampled = statistic(*(column[draw_resamples(units)] for column in columns))
    return percentile_interval(value, resampled, units, percentile)


def average_units(figures: Frame, by: str) -> dict[str, Any]:
    """The mean of every column over the rows of each unit, units in the order of the rows."""
    rows: dict[Any, list[int]] = {}
    for row, unit in enumerate(figures[by]):
        rows.setdefault(unit, []).append(row)
    averages: dict[str, Any] = {by: [*rows]}
    for name in (name for name in map(str, figures) if name != by):
        values = np.asarray(figures[name], dtype=float).tolist()
        averages[name] = np.array(
            [average([values[i] for i in of_unit]) for of_unit in rows.values()]
        )
    return averages


def average(values: Sequence[float]) -> float:
    """The mean of one or more values, the same in any order, for ``fsum`` is exact."""
    return math.fsum(values) / len(values)


@lru_cache(maxsize=16)
def draw_resamples(count: int, seed: int = SEED) -> NDArray[np.intp]:
    """Indices of ``count`` units drawn with replacement, ``[RESAMPLES, count]``, read-only."""
    # The raw stream is the same in every version of numpy; Generator's draws need not be.
    raw = np.random.PCG64(seed).random_raw(RESAMPLES * count)
    drawn = (raw % np.uint64(count)).astype(np.intp).reshape(RESAMPLES, -1)
    drawn.flags.writeable = False
    return drawn


def percentile_interval(
    value: float, resampled: ArrayLike, units: int, percentile: Percentile = "linear"
) -> Interval:
    """What the resamples of units gave, but for its ends; those without a figure are left out."""
    values = np.asarray(resampled, dtype=float)
    if units == 1:
        return Interval(value, units=units)
    # A resample's variance is that of the sample, which is too small by a factor 1 − 1/units.
    outside = 50 * math.erfc(_student(units) * math.sqrt(units / (units - 1)) / math.sqrt(2))
    low, high = np.percentile(
        values[~np.isnan(values)], [outside, 100 - outside], method=percentile
    )
    return Interval(value, float(low), float(high), units)


@cache
def _student(units: float) -> float:
    """The quantile of Student's distribution that a 95 % interval of a mean reaches to."""
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
