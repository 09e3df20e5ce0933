"""Measure whether a new model can be trained to keep old modules, and at what price.

This is a section of docs/laws.md. Its hypothesis, figure, rule and analysis were written before any
target was trained. ``mean_gains`` was added afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from pages import show_interval

from compatbench.results.estimate import Interval, estimate

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
        gain: the change of the mean gain over zero-shot of copied modules of all methods.
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


def mean_gains(gains: pd.DataFrame) -> dict[str, float]:
    """Return mean gains of copied modules over zero-shot, in points.

    The means are over methods, tasks and seeds: without the penalty, with each weight of it, and on
    targets that inherit the joint space.
    """
    targets = {"without": name_targets(), "inherited": [f"mini-eva-clip-{seed}" for seed in SEEDS]}
    for weight in WEIGHTS:
        targets[f"{weight:g}"] = name_targets(weight)
    return {title: float(gains[names].to_numpy().mean()) for title, names in targets.items()}


def answer(prices: Sequence[Price]) -> str:
    """Return the answer to the section's question, in a sentence."""
    kept = [price for price in prices if price.keeps]
    if not kept:
        return "At no weight was it shown that copied modules gain more than without the penalty."
    free = [price for price in kept if price.is_free]
    best = max(free or kept, key=lambda price: price.gain.value)
    cost = "what is lost is not shown to be small"
    if free:
        cost = f"less than {FREE:g} points are lost"
    return (
        "Trained to keep texts where the source has them, at weight "
        f"{best.weight:g}, a target's copied modules gain {show_interval(best.gain)} points more "
        f"than without; zero-shot changes by {show_interval(best.zero_shot)} points, so {cost} "
        "(two seeds, intervals over tasks)."
    )
