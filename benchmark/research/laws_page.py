"""The page ``docs/laws.md``: how much of what a module gains is due to the one target that it met.

Written before any row of suite ``mini-upgrades`` was seen, but for the first target of each kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pandas as pd
from pages import Page
from scipy import stats

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.results.estimate import FEWEST_UNITS, Array, Interval, estimate
from compatbench.results.ranks import ALPHA
from compatbench.results.result_files import read_results
from compatbench.tables.numbers import NOTHING, bounds, percent, signed

ROOT = Path(__file__).parents[2]
SUITE = "mini-upgrades"
AXES = ("methods", "tasks", "targets")
EFFECTS = tuple(chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3)))
NAMES = {effect: " × ".join(AXES[axis] for axis in effect) for effect in EFFECTS}
NAMES[0, 1, 2] = "what is left"
OF_TARGETS = [effect for effect in EFFECTS if 2 in effect]


@dataclass(frozen=True)
class Kind:
    """Targets that differ in the seed of their training: gains in points, and of what they are.

    ``gains`` and ``losses``, ``[methods, tasks, targets]``: a gain is a module's accuracy less
    zero-shot's on the same target; a loss is its gain on the source less that on the target.
    """

    title: str
    methods: tuple[str, ...]
    targets: tuple[str, ...]
    gains: Array
    losses: Array


def read_kinds(suite: SuiteCard, rows: pd.DataFrame) -> list[Kind]:
    """The kinds of upgrades of a suite: of each the targets on which every method was measured."""
    rows = rows[(rows["status"] == "ok") & (rows["transfer"] == "copied")]
    rows = rows[(rows["task"] == rows["test_set"]) & ~rows["method"].str.startswith("zeroshot")]
    tables = rows.pivot_table(index="method", columns=["backbone", "task"], values="gain")
    methods, kinds = tuple(map(str, tables.index)), []
    for title, upgrades in suite.groups.items():
        names = [path[-1] for path in upgrades if path[-1] in tables.columns]
        names = [name for name in names if tables[name].notna().to_numpy().all()]
        source = tables[upgrades[0][0]].to_numpy(float)
        gains = np.array([tables[name].to_numpy(float) for name in names])
        gains = gains.reshape(len(names), *source.shape).transpose(1, 2, 0)
        kinds.append(Kind(title, methods, tuple(names), gains, source[..., None] - gains))
    return kinds


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


# What one target says about others: by a sentence, the statistic and the most that it can be.
TELLINGS: dict[str, tuple[Callable[[Array], float], float]] = {
    "share of a gain's variance that changes with the target, %": (share_of_targets, 100),
    "standard deviation between targets of a method's mean gain, points": (spread_of_means, np.inf),
    "two methods, clearly apart on one target: in the other order on another, %": (
        reversed_orders,
        100,
    ),
    "a gain, clearly not 0 on one target: of the other sign on another, %": (reversals, 100),
}


def show(kind: Kind, statistic: Callable[[Array], float], most: float) -> str:
    """A statistic of gains; its interval only where there are targets enough."""
    interval = over_targets(kind.gains, statistic, most)
    if interval is None:
        return NOTHING
    between = f" ({bounds(interval)})" if interval.decides else ""
    return percent(interval.value) + between


def answer(kind: Kind) -> str:
    """The sentence on a kind of upgrade, which needs six targets."""
    count = len(kind.targets)
    if count < FEWEST_UNITS:
        return f"cannot tell from {count} of the {FEWEST_UNITS} targets."
    share, spread, order, _ = (show(kind, *telling) for telling in TELLINGS.values())
    return (
        f"{share} % of the variance of a gain changes with the target. A method's mean gain "
        f"has a standard deviation of {spread} points between targets, and an order of two methods "
        f"that is clear on one target is the other way round on another in {order} % of cases."
    )


def list_methods(kinds: list[Kind]) -> dict[str, list[tuple[str, str]]]:
    """By method and kind: its mean gain, and the standard deviation between targets."""
    figures = dict[str, list[tuple[str, str]]]()
    for kind in kinds:
        for name, means in zip(kind.methods, kind.gains.mean(axis=1), strict=True):
            figures.setdefault(name, []).append((signed(means.mean()), percent(means.std(ddof=1))))
    return figures


def make_page() -> Page:
    """Components, and what one target says of another, of the kinds with several targets."""
    suite = suite_cards.read(SUITE)
    kinds = read_kinds(suite, read_results(ROOT / "results" / SUITE).frame)
    several = [kind for kind in kinds if len(kind.targets) > 1]
    values = {
        "several": several,
        "answers": {kind.title: answer(kind) for kind in kinds},
        "components": {
            kind.title: [variance_components(cells) for cells in (kind.gains, kind.losses)]
            for kind in several
        },
        "effects": NAMES,
        "tellings": {
            name: [show(kind, *telling) for kind in several] for name, telling in TELLINGS.items()
        },
        "methods": list_methods(several),
        "few": any(len(kind.targets) < FEWEST_UNITS for kind in several),
        "fewest": FEWEST_UNITS,
        "suite": suite,
    }
    return Page(values, filters={"percent": percent})
