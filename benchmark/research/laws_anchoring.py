"""Can a new model be trained to keep old modules, and at what price? A section of docs/laws.md.

Hypothesis, figure, rule and analysis are of before any target was trained; ``mean_gains`` is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from pages import show_interval

from compatbench.results.estimate import Interval, estimate

WEIGHTS = (0.3, 1.0, 3.0, 10.0)
SEEDS = (5, 6)
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


def name_targets(weight: float = 0.0) -> list[str]:
    """The targets of all seeds that were trained with this weight of the penalty, or without it."""
    end = f"-anchored-{weight:g}" if weight else ""
    return [f"mini-eva-clip-anew-{seed}{end}" for seed in SEEDS]


def price_weights(gains: pd.DataFrame, zero_shot: pd.DataFrame) -> list[Price]:
    """The price of every weight.

    Args:
        gains: of copied modules in points, ``[(method, task), target]``.
        zero_shot: its accuracy in percent, ``[task, target]``.
    """
    tables = zero_shot, gains.groupby("task").mean()
    prices = []
    for weight in WEIGHTS:
        means = [[of[name_targets(w)].mean(axis=1) for w in (weight, 0.0)] for of in tables]
        changes = [estimate(penalised - without) for penalised, without in means]
        prices.append(Price(weight, *changes))  # type: ignore[arg-type]
    return prices


def mean_gains(gains: pd.DataFrame) -> dict[str, float]:
    """Mean gain of copied modules over zero-shot, in points, over methods, tasks and seeds.

    Without the penalty, by its weight, and on targets that inherit the joint space.
    """
    targets = {"without": name_targets(), "inherited": [f"mini-eva-clip-{seed}" for seed in SEEDS]}
    targets |= {f"{weight:g}": name_targets(weight) for weight in WEIGHTS}
    return {title: float(gains[names].to_numpy().mean()) for title, names in targets.items()}


def answer(prices: Sequence[Price]) -> str:
    """The answer to the question in a sentence."""
    kept = [price for price in prices if price.keeps]
    if not kept:
        return "At no weight was it shown that copied modules gain more than without the penalty."
    free = [price for price in kept if price.is_free]
    best = max(free or kept, key=lambda price: price.gain.value)
    cost = (
        f"less than {FREE:g} points are lost" if free else "what is lost is not shown to be small"
    )
    return (
        "Trained to keep texts where the source has them, at weight "
        f"{best.weight:g}, a target's copied modules gain {show_interval(best.gain)} points more "
        f"than without; zero-shot changes by {show_interval(best.zero_shot)} points, so {cost} "
        "(two seeds, intervals over tasks)."
    )
