"""The one place that decides: does an option gain or lose, and which option should an owner take?

Everything is decided from scores, ``[options, units]``, that were measured on the same units. A
unit is a task (the mean over its seeds), or an image if fewer tasks were measured than a verdict
takes. All differences are paired by unit.

* An option *gains* if the 95 % interval of its gain over the new model's zero-shot lies above 0,
  and *loses* if it lies below. Otherwise we *cannot tell*.
* The option to take is the cheapest that gains and is not significantly worse than the best of
  those that gain (``compare_with_best``). If several cost the same, it is the one with the highest
  mean, and the others are tied with it. The best of many is best by luck as well, so the choice
  counts only if it also gains when it is made with one unit left out and tested on that unit.
* Without such an option the verdict is *zero-shot* if all options lose, and else *cannot tell*.
* If the module on the old model is significantly better than the option, the verdict is *stay*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from compatbench.results.best import compare_with_best
from compatbench.results.estimate import FEWEST_UNITS, Array, Interval, estimate

Effect = Literal["gains", "loses", "cannot tell"]
Verdict = Literal[
    "keep", "port", "retrain", "stay", "zero-shot", "retrain or zero-shot", "cannot tell", "unknown"
]


def judge_effect(effect: Interval | None) -> Effect:
    """Return what an interval shows of a gain over zero-shot, or of another difference."""
    if effect is None or effect.sign == 0:
        return "cannot tell"
    return "gains" if effect.sign == 1 else "loses"


@dataclass(frozen=True)
class Choice:
    """The option to take.

    Attributes:
        option: its name; empty if none is shown to gain.
        likely: the option with the highest mean gain, whether it is shown to gain or not.
        tied: options of equal cost that are not significantly worse than the best; the chosen one
            comes first.
        held_out: the gain of choosing with one unit left out, on that unit.
        all_lose: True if every option loses.
    """

    option: str
    likely: str
    tied: tuple[str, ...]
    held_out: Interval | None
    all_lose: bool


def choose_option(
    scores: pd.DataFrame, zero_shot: ArrayLike, costs: Mapping[str, Sequence[float]]
) -> Choice:
    """Choose among options, as the text above says.

    Args:
        scores: accuracies in percent, ``[options, units]``; one option or more, none missing.
        zero_shot: the accuracy of the new model's zero-shot, ``[units]`` or as ``scores``, where
            options were measured together with their own.
        costs: the cost of each option; they are compared in their order.
    """
    gains = scores - np.asarray(zero_shot, dtype=float)
    intervals = {}
    for name, of_option in zip(gains.index, gains.to_numpy(), strict=True):
        intervals[str(name)] = estimate(of_option)
    means = gains.mean(axis="columns")
    likely = str(means.idxmax())
    all_lose = all(judge_effect(interval) == "loses" for interval in intervals.values())
    held_out = estimate(gains_of_choosing(gains))
    gaining = [name for name, interval in intervals.items() if judge_effect(interval) == "gains"]
    if not gaining or judge_effect(held_out) != "gains":
        return Choice("", likely, (), held_out, all_lose)
    good = _not_worse(scores.loc[gaining], means, costs)
    good.sort(key=lambda name: (*costs[name], -means[name]))
    tied = [name for name in good if tuple(costs[name]) == tuple(costs[good[0]])]
    return Choice(good[0], likely, tuple(tied), held_out, all_lose)


def _not_worse(
    scores: pd.DataFrame, means: pd.Series, costs: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return the options that are not significantly worse than the best.

    An option that gains no more than a significantly worse one, and costs no less, is left out
    too: a wider interval makes no option better.
    """
    compared = compare_with_best(scores)
    worse = list(compared.index[compared["worse"]])
    good = []
    for name in scores.index:
        dominated = any(
            means[other] >= means[name] and tuple(costs[other]) <= tuple(costs[name])
            for other in worse
        )
        if name not in worse and not dominated:
            good.append(str(name))
    return good


def gains_of_choosing(gains: ArrayLike) -> Array:
    """Return the leave-one-unit-out gain: choose the best on the other units, measure on this one.

    Args:
        gains: ``[options, units]``.

    Returns:
        ``[units]``.
    """
    table = np.asarray(gains, dtype=float)
    on_others = table.sum(axis=1, keepdims=True) - table
    chosen = on_others.argmax(axis=0)
    return table[chosen, np.arange(table.shape[1])]


def is_better(scores: ArrayLike, others: ArrayLike) -> bool:
    """Return True if a score is significantly higher than another, both ``[units]``."""
    difference = np.asarray(scores, dtype=float) - np.asarray(others, dtype=float)
    return judge_effect(estimate(difference)) == "gains"


def first_better(
    scores: Array, retrained: Mapping[int, Mapping[str, Array]]
) -> tuple[int, str, Interval] | None:
    """Return the least labels per class with which retraining is significantly better.

    With each number of labels, the most accurate method is compared.

    Args:
        scores: of an option, ``[units]``.
        retrained: by labels per class and method, ``[units]``.

    Returns:
        The labels, the method, and by how much it is better; None if no number of labels is.
    """
    for labels, methods in retrained.items():
        best = max(methods, key=lambda name: float(methods[name].mean()))
        difference = estimate(methods[best] - scores)
        if difference is not None and judge_effect(difference) == "gains":
            return labels, best, difference
    return None


def units_to_decide(interval: Interval, units: float) -> float:
    """Return the number of units needed for this difference to be significant, given its spread.

    An interval narrows as 1/√units. The number is infinite for a difference of 0, and at least
    ``FEWEST_UNITS``.
    """
    if not interval.value or not interval.bounded:
        return math.inf
    reach = (interval.high - interval.low) / 2 / abs(interval.value)
    return max(FEWEST_UNITS, math.ceil(units * reach**2))
