"""Targets of a kind, and how much of what a module gains is due to the one target that it met.

Written before any row of suite ``mini-upgrades`` was seen, but for the first target of each kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
import pandas as pd
from scipy import stats

from compatbench.data.cards import SuiteCard
from compatbench.results.estimate import FEWEST_UNITS, Array, Interval, estimate
from compatbench.results.ranks import ALPHA

AXES = ("methods", "tasks", "targets")
EFFECTS = tuple(chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3)))
OF_TARGETS = [effect for effect in EFFECTS if 2 in effect]


@dataclass(frozen=True)
class Kind:
    """Targets that differ in the seed of their training: gains in points, and of what they are.

    ``gains`` and ``losses``, ``[methods, tasks, targets]``: a gain is a module's accuracy less
    zero-shot's on the same target; a loss is its gain on the source less that on the target.
    """

    title: str
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    targets: tuple[str, ...]
    gains: Array
    losses: Array


def read_kinds(suite: SuiteCard, rows: pd.DataFrame) -> list[Kind]:
    """The kinds of upgrades of a suite: of each the targets on which every method was measured."""
    rows = rows[(rows["status"] == "ok") & (rows["transfer"] == "copied")]
    rows = rows[(rows["task"] == rows["test_set"]) & ~rows["method"].str.startswith("zeroshot")]
    tables = rows.pivot_table(index="method", columns=["backbone", "task"], values="gain")
    methods, kinds = tuple(map(str, tables.index)), []
    tasks = tuple(tables.columns.unique("task"))
    for title, upgrades in suite.groups.items():
        names = [path[-1] for path in upgrades if path[-1] in tables.columns]
        names = [name for name in names if tables[name].notna().to_numpy().all()]
        source = tables[upgrades[0][0]].to_numpy(float)
        gains = np.array([tables[name].to_numpy(float) for name in names])
        gains = gains.reshape(len(names), *source.shape).transpose(1, 2, 0)
        kinds.append(Kind(title, methods, tasks, tuple(names), gains, source[..., None] - gains))
    return kinds


def read_zero_shot(rows: pd.DataFrame) -> pd.DataFrame:
    """Zero-shot's accuracy in percent, ``[backbones, tasks]``."""
    rows = rows[(rows["method"] == "zeroshot") & (rows["task"] == rows["test_set"])]
    return rows.pivot_table(index="backbone", columns="task", values="accuracy")


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
    tasks, means = differences.shape[1], differences.mean(axis=1)
    reach = stats.t.ppf(1 - ALPHA / 2, tasks - 1) * differences.std(axis=1, ddof=1) / tasks**0.5
    clear, signs = np.abs(means) > reach, np.sign(means)
    shares = [
        np.mean(np.delete(signs[chosen], target, axis=1) != signs[chosen, target, None])
        for target, chosen in enumerate(clear.T)
        if chosen.any()
    ]
    return 100 * float(np.mean(shares)) if shares else np.nan


def reversed_orders(cells: Array) -> float:
    """How often two methods that are clearly apart on one target change places on another."""
    pairs = combinations(range(len(cells)), 2)
    return reversals(np.array([cells[method] - cells[other] for method, other in pairs]))


def over_targets(
    cells: Array, statistic: Callable[[Array], float], most: float = np.inf
) -> Interval | None:
    """A statistic of ``[methods, tasks, targets]`` between 0 and ``most``.

    Its interval is for these methods and tasks: the jackknife's over targets, of the logarithm (of
    the odds, where there is a ``most``). Bootstraps of so few targets are too narrow for a spread.
    """

    def logarithm(value: float) -> float:
        return float(np.log(value / (1 - value / most)))

    count, value = cells.shape[2], statistic(cells)
    if np.isnan(value):
        return None
    if count < FEWEST_UNITS:
        return Interval(value, units=count)
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
