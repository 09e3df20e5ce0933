"""Measure whether a new model can be trained to keep old modules, and at what price.

This is a section of docs/findings.md. Its hypothesis, rule and analysis were written before any
target was trained. Leaving out the methods that collapse, and the kinds of methods, were added
afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from compatbench.results.estimate import Interval, estimate
from compatbench.tables.numbers import bounds, signed

WEIGHTS = (0.3, 1.0, 3.0, 10.0)
SEEDS = (5, 6)
# A weight is called free if it costs fewer points of zero-shot: a third of the gain.
FREE = 2.0


@dataclass(frozen=True)
class Price:
    """The effect of a weight of the penalty, compared with the same training without it.

    Differences are in points, with Student's intervals over tasks. Seeds are averaged.

    Attributes:
        weight: the weight of the penalty.
        zero_shot: the change of zero-shot's accuracy on the target.
        gain: the change of the mean gain over zero-shot of copied modules.
    """

    weight: float
    zero_shot: Interval
    gain: Interval

    @property
    def is_free(self) -> bool:
        """Return True if zero-shot loses less than ``FREE`` points, by the whole interval."""
        return self.zero_shot.decides and self.zero_shot.low > -FREE

    @property
    def keeps(self) -> bool:
        """Return True if modules gain significantly more than without the penalty."""
        return self.gain.sign > 0


def name_targets(weight: float = 0.0) -> list[str]:
    """Return the targets of all seeds trained with this weight of the penalty; 0 is without it."""
    end = f"-anchored-{weight:g}" if weight else ""
    return [f"mini-eva-clip-anew-{seed}{end}" for seed in SEEDS]


def price_weights(gains: pd.DataFrame, zero_shot: pd.DataFrame) -> list[Price]:
    """Return the price of every weight.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        zero_shot: the accuracy of zero-shot in percent, ``[task, target]``.
    """
    mean_gains_by_task = gains.groupby("task").mean()
    prices = []
    for weight in WEIGHTS:
        changes = [_change(table, weight) for table in (zero_shot, mean_gains_by_task)]
        prices.append(Price(weight, *changes))
    return prices


def _change(table: pd.DataFrame, weight: float) -> Interval:
    """Return the mean change, over tasks, of a value of ``[task, target]`` due to a weight."""
    penalised = table[name_targets(weight)].mean(axis=1)
    without = table[name_targets()].mean(axis=1)
    interval = estimate(penalised - without)
    assert interval is not None
    return interval


def kind_of(inserts: Collection[str]) -> str:
    """Return the kind of a method, by where its card says that it acts."""
    if set(inserts) == {"text-input"}:
        return "prompts at the text input"
    if any(place.endswith(("-layers", "-input")) for place in inserts):
        return "prompts and updates in the towers"
    return "features, caches and classifiers"


def levels_of(gains: pd.DataFrame, weight: float) -> Interval:
    """Return the mean gain of copied modules over zero-shot with a weight, with its interval.

    The mean is over methods and seeds; the interval is over tasks.
    """
    interval = estimate(gains[name_targets(weight)].groupby("task").mean().mean(axis=1))
    assert interval is not None
    return interval


def best_price(prices: Sequence[Price]) -> Price | None:
    """Return the weight that is named: of those that keep modules and are free, the best.

    If none of those that keep modules is free, it is the best of all that keep them.
    """
    kept = [price for price in prices if price.keeps]
    free = [price for price in kept if price.is_free]
    if not kept:
        return None
    return max(free or kept, key=lambda price: price.gain.value)


def compare_kinds(
    gains: pd.DataFrame, kinds: Mapping[str, Sequence[str]], weight: float
) -> list[dict[str, Any]]:
    """Return what a weight changes for each kind of method.

    Args:
        gains: the gains of copied modules in points, ``[(method, task), target]``.
        kinds: the names of the methods of each kind.

    Returns:
        A record of each kind: its ``title``, ``methods``, and intervals over tasks of the gain
        ``without`` the penalty, ``with_it``, and of the ``change``.
    """
    rows = []
    for title, methods in kinds.items():
        of_kind = gains.loc[list(methods)]
        rows.append(
            {
                "title": title,
                "methods": list(methods),
                "without": levels_of(of_kind, 0.0),
                "with_it": levels_of(of_kind, weight),
                "change": _change(of_kind.groupby("task").mean(), weight),
            }
        )
    return rows


def answer(
    best: Price | None, kinds: Sequence[Mapping[str, Any]], level: Interval, of_all: Interval
) -> str:
    """Return the answer to the section's question, in sentences.

    Args:
        best: the weight that is named, for the methods that do not collapse.
        kinds: what this weight changes for each kind of method, as from ``compare_kinds``.
        level: the gain over zero-shot at this weight, of the methods that do not collapse.
        of_all: the same of all methods.
    """
    if best is None:
        return "At no weight was it shown that copied modules gain more than without the penalty."
    cost = "the loss is not shown to be small"
    if best.is_free:
        cost = f"so it loses less than {FREE:g} points"
    changes = [f"{_show(kind['change'])} for {kind['title']}" for kind in kinds]
    return (
        f"A little. At weight {best.weight:g}, copied modules gain {_show(best.gain)} points more "
        "than without the penalty (mean of the methods that do not collapse). Zero-shot changes by "
        f"{_show(best.zero_shot)} points, {cost}. Copied modules are then {_show(level)} points "
        f"above zero-shot; with the methods that collapse included, {_show(of_all)}. By kind of "
        f"method, the change is {'; '.join(changes)}. Intervals are over tasks, and two seeds are "
        "averaged."
    )


def _show(interval: Interval) -> str:
    return f"{signed(interval.value)} ({bounds(interval, signed)})"
