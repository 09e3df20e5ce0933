"""Measure how much of a module's gain is due to the one target of a kind that it was tested on.

This was written before any row of suite ``mini-upgrades`` was seen, except those of the first
target of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from compatbench.errors import CompatbenchError
from compatbench.extras.studies.frames import COLLAPSE
from compatbench.results.estimate import Array, Interval, estimate
from compatbench.results.ties import ALPHA

FEWEST_TARGETS = 3  # of an interval over targets
# The axes are methods, tasks and targets. These are the effects of each axis, and the interactions
# of two and of three: (0,), (1,), ..., (0, 1, 2).
EFFECTS = tuple(chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3)))
OF_TARGETS = [effect for effect in EFFECTS if 2 in effect]  # that change with the target


def read_gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the gains of copied modules in points, ``[(method, task), backbone]``.

    A gain is a module's accuracy minus that of zero-shot on the same backbone.

    Raises:
        CompatbenchError: a method has no gain on a task and backbone, so there would be no mean.
    """
    rows = rows[(rows["transfer"] == "copied") & (rows["task"] == rows["test_set"])]
    rows = rows[~rows["method"].str.startswith("zeroshot")]
    gains = rows.pivot(index=["method", "task"], columns="backbone", values="gain")
    by_place: Any = gains.stack(future_stack=True)
    missing = list(by_place.index[by_place.isna()])
    if missing:
        method, task, backbone = missing[0]
        raise CompatbenchError(
            f"method '{method}' has no gain on task '{task}' and backbone '{backbone}'; means need "
            "every method on every task and backbone"
        )
    return gains


def read_zero_shot(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of zero-shot in percent, ``[task, backbone]``."""
    rows = rows[(rows["method"] == "zeroshot") & (rows["task"] == rows["test_set"])]
    return rows.pivot(index="task", columns="backbone", values="accuracy")


def list_collapsed(kinds: Iterable[pd.DataFrame]) -> list[str]:
    """Return the methods whose mean gain is below ``COLLAPSE`` on a kind of target, by name.

    They differ from the others by so much that they decide every mean and every variance.

    Args:
        kinds: the gains of each kind of target, ``[(method, task), target]``.
    """
    names: set[str] = set()
    for gains in kinds:
        means = gains.groupby("method").mean().mean(axis="columns")
        names.update(means.index[means < COLLAPSE])
    return sorted(names)


def leave_out(gains: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Return a table of ``[(method, task), target]`` without some methods."""
    kept = gains.drop(index=list(methods), level="method")
    return kept.set_axis(kept.index.remove_unused_levels(), axis="index")  # type: ignore[attr-defined]


def to_cells(table: pd.DataFrame) -> Array:
    """Return a table of ``[(method, task), target]`` as an array ``[methods, tasks, targets]``."""
    return table.to_numpy(float).reshape(*table.index.levshape, -1)  # type: ignore[attr-defined]


def variance_components(cells: Array) -> dict[tuple[int, ...], float]:
    """Return the variance components of crossed random effects; cells are ``[a, b, c]``.

    These are the unbiased estimates of the analysis of variance: mean squares minus what other
    components add to their expectation. A component that is close to 0 may be negative.
    """
    deviations: dict[tuple[int, ...], Array] = {(): cells.mean(keepdims=True)}
    for effect in EFFECTS:
        means = cells.mean(axis=tuple({0, 1, 2} - {*effect}), keepdims=True)
        parts = [deviations[part] for part in deviations if {*part} < {*effect}]
        deviations[effect] = means - np.sum(np.broadcast_arrays(*parts), axis=0)
    components: dict[tuple[int, ...], float] = {}
    # Interactions come first, because they add to the mean squares of the effects in them.
    for effect in reversed(EFFECTS):
        freedom = np.prod([cells.shape[axis] - 1 for axis in effect])
        replicates = _count_replicates(cells, effect)
        square = replicates * float((deviations[effect] ** 2).sum() / freedom)
        added = 0.0
        for other in components:
            if {*effect} < {*other}:
                added += _count_replicates(cells, other) * components[other]
        components[effect] = (square - added) / replicates
    return {effect: components[effect] for effect in EFFECTS}


def _count_replicates(cells: Array, effect: tuple[int, ...]) -> float:
    """Return the number of cells for each combination of an effect's levels."""
    return float(np.prod([cells.shape[axis] for axis in {0, 1, 2} - {*effect}]))


def share_of_targets(cells: Array) -> float:
    """Return the share of the variance that changes with the target, in percent."""
    return share_of_effects(cells, OF_TARGETS)


def share_of_effects(cells: Array, effects: Iterable[tuple[int, ...]]) -> float:
    """Return the share of the variance that is due to some effects, in percent.

    Negative components count as 0.
    """
    parts = {effect: max(part, 0) for effect, part in variance_components(cells).items()}
    return 100 * sum(parts[effect] for effect in effects) / sum(parts.values())


def spread_of_means(cells: Array) -> float:
    """Return the standard deviation of a method's mean between targets, pooled over methods."""
    variances = cells.mean(axis=1).var(axis=1, ddof=1)
    return float(np.sqrt(variances.mean()))


def reversals(differences: Array) -> float:
    """Return how often a clear difference on one target has the other sign on another, in percent.

    Args:
        differences: ``[compared, tasks, targets]``. One is clear if Student's t over tasks is
            significant at 5 %.

    Returns:
        The mean over the targets on which any difference is clear; NaN if there is no such target.
    """
    signs = np.sign(differences.mean(axis=1))
    p_values: Any = stats.ttest_1samp(differences, 0, axis=1)[1]
    shares = []
    for target, clear in enumerate((p_values < ALPHA).T):
        if clear.any():
            here = signs[clear, target, None]
            elsewhere = np.delete(signs[clear], target, axis=1)
            shares.append(np.mean(elsewhere != here))
    return 100 * float(np.mean(shares or np.nan))


def reversed_orders(cells: Array) -> float:
    """Return how often two methods, clearly apart on one target, change places on another.

    The share is in percent, as for ``reversals``.
    """
    pairs = combinations(range(len(cells)), 2)
    return reversals(np.array([cells[method] - cells[other] for method, other in pairs]))


def over_targets(
    cells: Array, statistic: Callable[[Array], float], upper: float = np.inf
) -> Interval:
    """Return a statistic with its interval over targets, for these methods and tasks.

    The interval is the jackknife's of the statistic's logarithm, or of the logarithm of its odds if
    it has an upper limit. Bootstraps of so few targets are too narrow for a spread.

    Args:
        cells: ``[methods, tasks, targets]``.
        statistic: a function of cells, with values between 0 and ``upper``.
        upper: the largest value that the statistic can have.
    """

    def odds_of(value: float) -> float:
        return value / (1 - value / upper)

    def from_odds(odds: float) -> float:
        return float(odds / (1 + odds / upper))

    count = cells.shape[2]
    value = statistic(cells)
    without = [statistic(np.delete(cells, target, axis=2)) for target in range(count)]
    if not all(0 < each < upper for each in (value, *without)):
        return Interval(value, units=count)
    of_all = float(np.log(odds_of(value)))
    pseudo_values = []
    for each in without:
        pseudo_values.append(count * of_all - (count - 1) * float(np.log(odds_of(each))))
    interval = estimate(pseudo_values)
    assert interval is not None
    reach = np.exp(interval.high - interval.value)
    odds = odds_of(value)
    return Interval(value, from_odds(odds / reach), from_odds(odds * reach), count)
