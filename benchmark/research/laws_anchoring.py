"""Question 2 of ``docs/laws.md``: can a new model be trained to keep old modules, at what price?

Hypothesis, figure, rule and analysis are of before any target was trained; ``mean_gains`` is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from laws_kinds import Kind

from compatbench.results.estimate import Array, Interval, estimate
from compatbench.tables.figures.spec_parts import Shown

NAME = re.compile(r"mini-eva-clip-anew-(?P<seed>[56])(-anchored-(?P<weight>[0-9.]+))?$")
WEIGHTS = (0.3, 1.0, 3.0, 10.0)
SEEDS = ("5", "6")
FREE = (
    2.0  # points of zero-shot that a weight may cost and still be called free: a third of the gain
)


@dataclass(frozen=True)
class Price:
    """What a weight of the penalty costs and gives beside the same training without it.

    Differences in points, with Student's intervals over tasks, seeds averaged.

    Attributes:
        zero_shot: accuracy of zero-shot on the target.
        gain: mean gain over zero-shot of the copied modules of all methods.
    """

    weight: float
    zero_shot: Interval
    gain: Interval

    @property
    def is_free(self) -> bool:
        """Whether zero-shot loses less than ``FREE``, by the whole interval."""
        return self.zero_shot.decides and self.zero_shot.low > -FREE

    @property
    def keeps(self) -> bool:
        """Whether modules gain more than without the penalty."""
        return self.gain.sign > 0


def price_weights(kinds: Sequence[Kind], zero_shot: pd.DataFrame) -> list[Price]:
    """The price of every weight whose targets have been measured for both seeds.

    Args:
        zero_shot: accuracy of zero-shot in percent, a row for each target, a column for each task.
    """
    gains = dict[tuple[str, float], Array]()
    accuracies = dict[tuple[str, float], Array]()
    for kind in kinds:
        for place, name in enumerate(kind.targets):
            if matched := NAME.fullmatch(name):
                key = matched["seed"], float(matched["weight"] or 0)
                gains[key] = kind.gains[..., place].mean(axis=0)
                accuracies[key] = zero_shot.loc[name, [*kind.tasks]].to_numpy(float)
    prices = []
    for weight in WEIGHTS:
        if all((seed, each) in gains for seed in SEEDS for each in (0.0, weight)):
            differences = [
                np.mean([table[seed, weight] - table[seed, 0.0] for seed in SEEDS], axis=0)
                for table in (accuracies, gains)
            ]
            both = [estimate(each) for each in differences]
            assert both[0] is not None
            assert both[1] is not None
            prices.append(Price(weight, both[0], both[1]))
    return prices


def mean_gains(kinds: Sequence[Kind]) -> dict[str, float]:
    """Mean gain of copied modules over zero-shot, in points, over methods, tasks and seeds.

    Without the penalty, by its weight, and on targets that inherit the joint space.
    """
    means = {
        name: kind.gains[..., place].mean()
        for kind in kinds
        for place, name in enumerate(kind.targets)
    }
    targets = {"without": "anew-{}", "inherited": "{}"}
    targets |= {f"{weight:g}": f"anew-{{}}-anchored-{weight:g}" for weight in WEIGHTS}
    return {
        title: float(np.mean([means[f"mini-eva-clip-{name.format(seed)}"] for seed in SEEDS]))
        for title, name in targets.items()
    }


def answer(prices: Sequence[Price]) -> str:
    """The answer to the question in a sentence; or how far it is."""
    if len(prices) < len(WEIGHTS):
        return f"Not answered yet: {len(prices)} of {len(WEIGHTS)} weights have been measured."
    kept = [price for price in prices if price.keeps]
    if not kept:
        return "At no weight was it shown that copied modules gain more than without the penalty."
    free = [price for price in kept if price.is_free]
    chosen = free or kept
    best = max(chosen, key=lambda price: price.gain.value)
    cost = (
        f"less than {FREE:g} points are lost" if free else "what is lost is not shown to be small"
    )
    return (
        "Trained to keep texts where the source has them, at weight "
        f"{best.weight:g}, a target's copied modules gain {_show(best.gain)} points more than "
        f"without; zero-shot changes by {_show(best.zero_shot)} points, so {cost} (two seeds, "
        "intervals over tasks)."
    )


def _show(interval: Interval) -> str:
    return f"{interval.value:+.1f} ({interval.low:+.1f} to {interval.high:+.1f})"


def show_prices(prices: Sequence[Price]) -> Shown:
    """The gain of modules against what zero-shot loses, a point for each weight."""
    rows = [
        {
            "weight": f"{price.weight:g}",
            "x": round(price.zero_shot.value, 2),
            "x_low": round(price.zero_shot.low, 2),
            "x_high": round(price.zero_shot.high, 2),
            "y": round(price.gain.value, 2),
            "y_low": round(price.gain.low, 2),
            "y_high": round(price.gain.high, 2),
        }
        for price in prices
    ]
    return Shown(rows, {})
