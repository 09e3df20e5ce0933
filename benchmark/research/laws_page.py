"""The page ``docs/laws.md``: what one target of a kind says of others, and what anchoring does."""

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


def show(cells: Array, statistic: Callable[[Array], float], most: float) -> str:
    """A statistic of gains, with its interval if there is one."""
    interval = over_targets(cells, statistic, most)
    return percent(interval.value) + (f" ({bounds(interval)})" if interval.decides else "")


def answer(shown: Sequence[str]) -> str:
    """The sentence on a kind of upgrade, of its ``TELLINGS``."""
    share, spread, order, _ = shown
    return (
        f"{share} % of the variance of a gain changes with the target. A method's mean gain "
        f"has a standard deviation of {spread} points between targets, and an order of two methods "
        f"that is clear on one target is the other way round on another in {order} % of cases."
    )


def list_methods(kinds: Iterable[pd.DataFrame]) -> dict[str, list[tuple[str, str]]]:
    """By method and kind: its mean gain, with its interval over targets, and their deviation."""
    figures = dict[str, list[tuple[str, str]]]()
    for gains in kinds:
        for name, means in gains.groupby("method").mean().iterrows():
            gain = f"{signed(means.mean())} ({bounds(estimate(means), signed)})"
            figures.setdefault(str(name), []).append((gain, percent(means.std())))
    return figures


def make_page() -> Page:
    """Return the page: components, what one target says of another, and the penalty's price."""
    suite = suite_cards.read(SUITE)
    rows = read_results(ROOT / "results" / SUITE).frame
    gains = read_gains(rows)
    [source] = rows["source"].unique()
    # In the order of the suite.
    losses = -gains[[path[-1] for path in suite.upgrades]].sub(gains[source], axis=0)
    of_kinds = {title: [path[-1] for path in upgrades] for title, upgrades in suite.groups.items()}
    # Kinds of which a target ships: sentences on that target are to hold for others, too.
    shipped = {*backbone_cards.builtin_names()}
    kinds = {title: names for title, names in of_kinds.items() if not shipped.isdisjoint(names)}
    tellings = {
        title: [show(to_cells(gains[names]), *telling) for telling in TELLINGS.values()]
        for title, names in kinds.items()
    }
    values = {
        "answers": {title: answer(shown) for title, shown in tellings.items()},
        "components": {
            title: [variance_components(to_cells(table[names])) for table in (gains, losses)]
            for title, names in kinds.items()
        },
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
