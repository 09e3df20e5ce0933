"""Make ``docs/laws.md``: how far a result on one target holds for others, and anchoring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import laws_anchoring
import numpy as np
import pandas as pd
from laws_kinds import (
    AXES,
    EFFECTS,
    over_targets,
    read_gains,
    read_zero_shot,
    reversals,
    reversed_orders,
    share_of_targets,
    spread_of_means,
    to_cells,
    variance_components,
)
from pages import Page

from compatbench.data.cards import backbone_cards, suite_cards
from compatbench.results.estimate import FEWEST_UNITS, Array, estimate
from compatbench.results.result_files import read_results
from compatbench.tables.markdown import fill_section
from compatbench.tables.numbers import bounds, percent, signed

ROOT = Path(__file__).parents[2]
SUITE = "mini-upgrades"
CHOICE = ROOT / "docs" / "choose-a-method.md"  # which has the answer, too
NAMES = {effect: " × ".join(AXES[axis] for axis in effect) for effect in EFFECTS}
NAMES[0, 1, 2] = "what is left"


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


def answer(shown: Sequence[str]) -> str:
    """Return the sentence on a kind of upgrade; ``shown`` has its statistics of ``TELLINGS``."""
    share, spread, order, _ = shown
    return (
        f"{share} % of the variance of a gain changes with the target. A method's mean gain "
        f"has a standard deviation of {spread} points between targets, and an order of two methods "
        f"that is clear on one target is the other way round on another in {order} % of cases."
    )


def list_methods(kinds: Iterable[pd.DataFrame]) -> dict[str, list[tuple[str, str]]]:
    """Return the mean gain of each method, and its standard deviation between targets, by kind.

    Args:
        kinds: the gains of each kind of target, ``[(method, task), target]``.
    """
    shown: dict[str, list[tuple[str, str]]] = {}
    for gains in kinds:
        for name, means in gains.groupby("method").mean().iterrows():
            gain = f"{signed(means.mean())} ({bounds(estimate(means), signed)})"
            shown.setdefault(str(name), []).append((gain, percent(means.std())))
    return shown


def make_page() -> Page:
    """Return the page: components, what one target says of another, and the penalty's price."""
    suite = suite_cards.read(SUITE)
    rows = read_results(ROOT / "results" / SUITE).frame
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
    tellings = {}
    components = {}
    for title, names in kinds.items():
        cells = to_cells(gains[names])
        tellings[title] = [show(cells, *telling) for telling in TELLINGS.values()]
        of_losses = variance_components(to_cells(losses[names]))
        components[title] = [variance_components(cells), of_losses]
    values = {
        "answers": {title: answer(shown) for title, shown in tellings.items()},
        "components": components,
        "effects": NAMES,
        "tellings": dict(zip(TELLINGS, zip(*tellings.values(), strict=True), strict=True)),
        "methods": list_methods(gains[names] for names in kinds.values()),
        "fewest": FEWEST_UNITS,
        "suite": suite,
    }
    prices = laws_anchoring.price_weights(gains, read_zero_shot(rows))
    answered = laws_anchoring.answer(prices)
    values |= {
        "anchoring": laws_anchoring,
        "anchoring_answer": answered,
        "prices": prices,
        "levels": laws_anchoring.mean_gains(gains),
    }
    line = f"* Can a new model be trained to keep old modules? {answered}"
    choice = fill_section(CHOICE.read_text(encoding="utf-8"), "laws", line)
    return Page(values, {CHOICE.name: choice})
