"""Make ``docs/laws.md``: how far a result on one target holds for others, and anchoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import laws_anchoring
import numpy as np
import pandas as pd
from laws_kinds import (
    AXES,
    EFFECTS,
    leave_out,
    list_collapsed,
    over_targets,
    read_gains,
    read_zero_shot,
    reversals,
    reversed_orders,
    share_of_effects,
    share_of_targets,
    spread_of_means,
    to_cells,
    variance_components,
)
from pages import Page

from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.extras.studies.frames import COLLAPSE
from compatbench.results.estimate import FEWEST_UNITS, Array, estimate
from compatbench.results.result_files import ResultFiles
from compatbench.results.stored_method import MethodInfo
from compatbench.tables.numbers import bounds, percent, signed

ROOT = Path(__file__).parents[2]
SUITE = "mini-upgrades"
NAMES = {effect: " × ".join(AXES[axis] for axis in effect) for effect in EFFECTS}
REMAINDER = (0, 1, 2)  # methods × tasks × targets, and the chance of a test set
NAMES[REMAINDER] = "remainder"


# What one target says about others: a statistic and its largest possible value, by a description.
TELLINGS: dict[str, tuple[Callable[[Array], float], float]] = {
    "share of a gain's variance that changes with the target, %": (share_of_targets, 100),
    "standard deviation between targets of a method's mean gain, points": (spread_of_means, np.inf),
    "two methods, clearly apart on one target: in the other order on another, %": (
        reversed_orders,
        100,
    ),
    "a gain, clearly not 0 on one target: of the other sign on another, %": (reversals, 100),
}


def show(cells: Array, statistic: Callable[[Array], float], upper: float) -> str:
    """Return a statistic of gains as text, with its interval if there is one."""
    interval = over_targets(cells, statistic, upper)
    value = percent(interval.value)
    return f"{value} ({bounds(interval)})" if interval.decides else value


def answer(shown: Sequence[str], shown_of_all: Sequence[str], cells: Array) -> str:
    """Return the sentences on a kind of upgrade.

    Args:
        shown: the statistics of ``TELLINGS``, without the methods that collapse.
        shown_of_all: the same of all methods.
        cells: the gains without the methods that collapse, ``[methods, tasks, targets]``.
    """
    share, spread, order, _ = shown
    points = share_of_targets(cells)
    remainder = share_of_effects(cells, [REMAINDER])
    return (
        f"At most {share} % of the variance of a gain changes with the target (interval over "
        "targets), without the methods that collapse. Of these "
        f"{points:.0f} percentage points, {remainder:.0f} are the remainder, which includes the "
        f"chance of a test set. With the methods that collapse it is at most {shown_of_all[0]} %, "
        "because they differ from the others by so much. A method's mean gain has a standard "
        f"deviation of {spread} points between targets (interval over targets). If two methods "
        "differ significantly on one target (t over tasks, 5 %, uncorrected), their order is "
        f"reversed on another in {order} % of cases; this number has no interval."
    )


def list_methods(kinds: Iterable[pd.DataFrame]) -> dict[str, list[tuple[str, str, str]]]:
    """Return what each method gains on each kind of target.

    These are the mean with its interval over targets, the interval over tasks, and the standard
    deviation between targets.

    Args:
        kinds: the gains of each kind of target, ``[(method, task), target]``.
    """
    shown: dict[str, list[tuple[str, str, str]]] = {}
    for gains in kinds:
        for name, means in gains.groupby("method").mean().iterrows():
            gain = f"{signed(means.mean())} ({bounds(estimate(means), signed)})"
            by_task = gains.xs(str(name)).to_numpy().mean(axis=1)
            over_tasks = bounds(estimate(by_task), signed)
            shown.setdefault(str(name), []).append((gain, over_tasks, percent(means.std())))
    return shown


def group_methods(
    infos: Mapping[str, MethodInfo], collapsed: Sequence[str]
) -> dict[str, list[str]]:
    """Return the names of the methods of each kind; those that collapse are one of their own."""
    kinds: dict[str, list[str]] = {}
    for name, info in infos.items():
        if info.learns and name not in collapsed:
            kinds.setdefault(laws_anchoring.kind_of(info.inserts), []).append(name)
    ordered = {title: kinds[title] for title in sorted(kinds, reverse=True)}
    return {**ordered, "collapsed without the penalty": list(collapsed)}


def make_page() -> Page:
    """Return the page: components, what one target says of another, and the penalty's price."""
    suite = suite_cards.read(SUITE)
    results = ResultFiles(ROOT).read_suite(SUITE)
    rows = results.frame
    gains = read_gains(rows)
    [source] = rows["source"].unique()
    targets = [path[-1] for path in suite.upgrades]
    losses = -gains[targets].sub(gains[source], axis=0)
    # Show the kinds of which a target ships. What other pages say of it should hold for its kind.
    shipped = set(backbone_cards.builtin_names())
    kinds = {}
    for title, upgrades in suite.groups.items():
        names = [path[-1] for path in upgrades]
        if not shipped.isdisjoint(names):
            kinds[title] = names
    collapsed = list_collapsed(gains[names] for names in kinds.values())
    # The methods that collapse on each kind, and not on one of them alone.
    of_kinds_collapsed = [set(list_collapsed([gains[names]])) for names in kinds.values()]
    collapsed_on_each = sorted(set.intersection(*of_kinds_collapsed))
    steady = leave_out(gains, collapsed)
    answers = {}
    tellings = []
    components = {}
    for title, names in kinds.items():
        parts = []
        for table in (gains, steady, losses, leave_out(losses, collapsed)):
            parts.append(variance_components(to_cells(table[names])))
        components[title] = parts
        of_all = [show(to_cells(gains[names]), *telling) for telling in TELLINGS.values()]
        of_steady = [show(to_cells(steady[names]), *telling) for telling in TELLINGS.values()]
        tellings += [of_all, of_steady]
        answers[title] = answer(of_steady, of_all, to_cells(steady[names]))
    values = {
        "answers": answers,
        "components": components,
        "effects": NAMES,
        "tellings": dict(zip(TELLINGS, zip(*tellings, strict=True), strict=True)),
        "methods": list_methods(gains[names] for names in kinds.values()),
        "collapsed": [results.methods[name].info.title for name in collapsed],
        "collapsed_on_each": [results.methods[name].info.title for name in collapsed_on_each],
        "collapse": -COLLAPSE,
        "steady": steady.index.get_level_values("method").nunique(),
        "fewest": FEWEST_UNITS,
        "suite": suite,
    }
    zero_shot = read_zero_shot(rows)
    prices = laws_anchoring.price_weights(steady, zero_shot)
    best = laws_anchoring.best_price(prices)
    best_of_all = laws_anchoring.best_price(laws_anchoring.price_weights(gains, zero_shot))
    assert best is not None
    assert best_of_all is not None
    assert best.weight == best_of_all.weight
    infos = {name: method.info for name, method in results.methods.items()}
    of_kinds = laws_anchoring.compare_kinds(gains, group_methods(infos, collapsed), best.weight)
    prompts = next(row["change"] for row in of_kinds if row["title"].endswith("text input"))
    level = laws_anchoring.levels_of(steady, best.weight)
    level_of_all = laws_anchoring.levels_of(gains, best.weight)
    answered = laws_anchoring.answer(best, prompts, level, level_of_all)
    values |= {
        "anchoring": laws_anchoring,
        "anchoring_answer": answered,
        "best": best,
        "prices": prices,
        "kinds": of_kinds,
    }
    return Page(values)
