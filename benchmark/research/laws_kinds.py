"""Targets of a kind, and how much of what a module gains is due to the one target that it met.

Written before any row of suite ``mini-upgrades`` was seen, but for the first target of each kind.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from compatbench.results.estimate import Array, Interval, estimate
from compatbench.results.ranks import ALPHA

AXES = ("methods", "tasks", "targets")
EFFECTS = tuple(chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3)))
OF_TARGETS = [effect for effect in EFFECTS if 2 in effect]


def read_gains(rows: pd.DataFrame) -> pd.DataFrame:
    """Gains of copied modules in points, ``[(method, task), backbone]``.

    A gain is a module's accuracy less zero-shot's on the same backbone.
    """
    rows = rows[(rows["transfer"] == "copied") & (rows["task"] == rows["test_set"])]
    rows = rows[~rows["method"].str.startswith("zeroshot")]
    return rows.pivot(index=["method", "task"], columns="backbone", values="gain")


def read_zero_shot(rows: pd.DataFrame) -> pd.DataFrame:
    """Zero-shot's accuracy in percent, ``[task, backbone]``."""
    rows = rows[(rows["method"] == "zeroshot") & (rows["task"] == rows["test_set"])]
    return rows.pivot(index="task", columns="backbone", values="accuracy")


def to_cells(table: pd.DataFrame) -> Array:
    """The figures of a kind of target, ``[methods, tasks, targets]``."""
    return table.to_numpy(float).reshape(*table.index.levshape, -1)  # type: ignore[attr-defined]


def variance_components(cells: Array) -> dict[tuple[int, ...], float]:
    """The variance components of crossed random effects, one figure in each of ``[a, b, c]``.

    The unbiased estimates of the analysis of variance: mean squares less what other components
    add to their expectation. They can be negative, where a component is next to nothing.
    """
    means = {
        effect: cells.mean(axis=tuple({0, 1, 2} - {*effect}), keepdims=True)
        for effect in ((), *EFFECTS)
    }
    components = dict[tuple[int, ...], float]()
    deviations: dict[tuple[int, ...], Array] = {(): means[()]}
    for effect in EFFECTS:
        parts = [deviations[part] for part in deviations if {*part} < {*effect}]
        deviations[effect] = means[effect] - np.sum(np.broadcast_arrays(*parts), axis=0)
    for effect in reversed(EFFECTS):
        freedom = np.prod([cells.shape[axis] - 1 for axis in effect])
        square = _levels_beside(cells, effect) * float((deviations[effect] ** 2).sum() / freedom)
        above = (other for other in components if {*effect} < {*other})
        square -= sum(_levels_beside(cells, other) * components[other] for other in above)
        components[effect] = square / _levels_beside(cells, effect)
    return {effect: components[effect] for effect in EFFECTS}


def _levels_beside(cells: Array, effect: tuple[int, ...]) -> float:
    return float(np.prod([cells.shape[axis] for axis in {0, 1, 2} - {*effect}]))


def share_of_targets(cells: Array) -> float:
    """The share in percent of the variance that changes with the target; no part below 0."""
    parts = {effect: max(part, 0) for effect, part in variance_components(cells).items()}
    return 100 * sum(parts[effect] for effect in OF_TARGETS) / sum(parts.values())


def spread_of_means(cells: Array) -> float:
    """The standard deviation between targets of a method's mean over tasks, pooled over methods."""
    return float(np.sqrt(cells.mean(axis=1).var(axis=1, ddof=1).mean()))


def reversals(differences: Array) -> float:
    """How often what is clear on one target has the other sign on another, in percent.

    Of ``[compared, tasks, targets]``: clear is what Student's t over tasks tells from 0 at 5 %.
    The mean over targets on which something is clear; NaN if there is none.
    """
    signs = np.sign(differences.mean(axis=1))
    p_values: Any = stats.ttest_1samp(differences, 0, axis=1)[1]
    shares = [
        np.mean(np.delete(signs[chosen], target, axis=1) != signs[chosen, target, None])
        for target, chosen in enumerate((p_values < ALPHA).T)
        if chosen.any()
    ]
    return 100 * float(np.mean(shares or np.nan))


def reversed_orders(cells: Array) -> float:
    """How often two methods that are clearly apart on one target change places on another."""
    pairs = combinations(range(len(cells)), 2)
    return reversals(np.array([cells[method] - cells[other] for method, other in pairs]))


def over_targets(
    cells: Array, statistic: Callable[[Array], float], most: float = np.inf
) -> Interval:
    """A statistic of ``[methods, tasks, targets]`` between 0 and ``most``.

    Its interval is for these methods and tasks: the jackknife's over targets, of the logarithm (of
    the odds, where there is a ``most``). Bootstraps of so few targets are too narrow for a spread.
    """

    def logarithm(value: float) -> float:
        return float(np.log(value / (1 - value / most)))

    count, value = cells.shape[2], statistic(cells)
    left = [statistic(np.delete(cells, target, axis=2)) for target in range(count)]
    if not all(0 < each < most for each in (value, *left)):
        return Interval(value, units=count)
    pseudo = [count * logarithm(value) - (count - 1) * logarithm(each) for each in left]
    interval = estimate(pseudo)
    assert interval is not None
    reach = np.exp(interval.high - interval.value)
    odds = value / (1 - value / most)
    low, high = (float(bound / (1 + bound / most)) for bound in (odds / reach, odds * reach))
    return Interval(value, low, high, count)
