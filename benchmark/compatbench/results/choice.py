"""The one place that decides: does an option gain or lose, and which option should an owner take?

Everything is decided from paired differences between options that were measured on the same units
(``differences``). A unit is a task (the mean over its seeds), or an image if fewer tasks were
measured than a verdict takes.

* An option *gains* if the 95 % interval of its gain over the new model's zero-shot lies above 0,
  and *loses* if it lies below. Otherwise we *cannot tell*.
* The option to take is the cheapest that gains and is not significantly worse than the best of
  those that gain: a paired test with Holm's correction for all that are compared. Of options that
  cost the same, the one with the highest mean is compared, and those that are not significantly
  worse than that one are tied with it. (To compare all at once would make the correction so strong
  that the more options somebody has, the worse the option to take is.)
* The best of many methods is best by luck as well. Where methods are compared, the choice counts
  only if the option with the highest mean on all units but one gains on the unit left out, in the
  mean over the units.
* An option that needs no labels is *keep* (the module as it is) or *port*, and else *retrain*.
* If there is no such option, the verdict is *zero-shot* if all options lose, or *retrain or
  zero-shot* if none of them has labels, or if no module can be attached. Otherwise we *cannot
  tell*.
* If the module on the old model is significantly better than all this, the verdict is *stay*.
* Without a measurement of the module as it is, or of any option that can be attached, the verdict
  is *unknown*.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from compatbench.data.cards import COPIED
from compatbench.results.costs import access_of, cost_table
from compatbench.results.differences import ZERO_SHOT, Difference, compare_tasks
from compatbench.results.estimate import FEWEST_UNITS, Array, Interval, estimate, p_value
from compatbench.results.ties import ALPHA, holm

Effect = Literal["gains", "loses", "cannot tell"]
Verdict = Literal[
    "keep", "port", "retrain", "stay", "zero-shot", "retrain or zero-shot", "cannot tell", "unknown"
]
Costs = Mapping[str, Sequence[float]]  # of each option; compared in their order


def judge_effect(effect: Interval | None) -> Effect:
    """Return what an interval shows of a gain over zero-shot, or of another difference."""
    if effect is None or effect.sign == 0:
        return "cannot tell"
    return "gains" if effect.sign == 1 else "loses"


def act(transfer: str) -> Literal["keep", "port", "retrain"]:
    """Return the verdict of an option that is taken."""
    if transfer == COPIED:
        return "keep"
    return "retrain" if "labels" in access_of(transfer) else "port"


@dataclass(frozen=True)
class Choice:
    """The option to take.

    Attributes:
        option: its name; empty if none is shown to gain.
        tied: options of equal cost that are not significantly worse; the chosen one comes first.
        held_out: the gain of choosing with one unit left out, on that unit; None if it is unknown,
            or if the choice does not depend on it.
        all_lose: True if every option loses; False if none was measured.
    """

    option: str
    tied: tuple[str, ...]
    held_out: Interval | None
    all_lose: bool


@dataclass(frozen=True)
class Decision:
    """What an owner should do.

    Attributes:
        verdict: one of ``Verdict``.
        option: the option to take. If we cannot tell, it is the one to go on with meanwhile; if the
            verdict is *stay*, the one to take if the old model must go. Empty for zero-shot.
        likely: the option with the highest mean gain of those without labels, or of all if each
            needs labels, whether it is shown to gain or not. Empty if none was measured.
        choice: the choice that the verdict comes from.
        gain: of the option over zero-shot.
        over_old: how much better the option, or zero-shot, is than the module on the old model.
        needed: how many units would decide, if we cannot tell.
        undecided: the option that they would decide on.
    """

    verdict: Verdict
    option: str
    likely: str
    choice: Choice
    gain: Interval | None
    over_old: Interval | None
    needed: float | None
    undecided: str = ""


def choose_option(
    scores: pd.DataFrame,
    zero_shot: ArrayLike,
    costs: Costs,
    difference: Difference | None = None,
) -> Choice:
    """Choose among options of several methods, as the text above says.

    Args:
        scores: accuracies in percent, ``[options, units]``; one option or more, none missing.
        zero_shot: the accuracy of the new model's zero-shot, ``[units]`` or as ``scores``, where
            options were measured together with their own.
        costs: the cost of each option.
        difference: compares two of the options, or one with ``ZERO_SHOT``; by default their
            scores are compared.
    """
    gains = scores - np.asarray(zero_shot, dtype=float)
    intervals = {}
    for name, of_option in zip(gains.index, gains.to_numpy(), strict=True):
        interval = estimate(of_option) if difference is None else difference(name, ZERO_SHOT)
        assert interval is not None, "a score is missing"
        intervals[str(name)] = interval
    choice = choose_by_gain(intervals, costs, difference or compare_tasks(scores))
    held_out = estimate(gains_of_choosing(gains))
    if judge_effect(held_out) != "gains":
        return Choice("", (), held_out, choice.all_lose)
    return Choice(choice.option, choice.tied, held_out, choice.all_lose)


def choose_by_gain(gains: Mapping[str, Interval], costs: Costs, difference: Difference) -> Choice:
    """Choose among the options of one method, which are few, by their gains over zero-shot.

    Args:
        gains: of each option that was measured.
        costs: the cost of each option.
        difference: compares two of the options.
    """
    all_lose = bool(gains) and all(judge_effect(gain) == "loses" for gain in gains.values())
    gaining = [name for name, gain in gains.items() if judge_effect(gain) == "gains"]
    if not gaining:
        return Choice("", (), None, all_lose)
    levels: dict[tuple[float, ...], list[str]] = {}
    for name in sorted(gaining, key=lambda name: (*costs[name], -gains[name].value)):
        levels.setdefault(tuple(costs[name]), []).append(name)
    best_by_cost = [names[0] for names in levels.values()]
    worse = _find_worse({name: gains[name].value for name in best_by_cost}, difference)
    chosen = _find_cheapest(best_by_cost, worse, gains)
    of_equal_cost = levels[tuple(costs[chosen])]
    behind = _find_worse({name: gains[name].value for name in of_equal_cost}, difference)
    tied = [name for name in of_equal_cost if name not in behind]
    return Choice(chosen, tuple(tied), None, all_lose)


def _find_cheapest(
    names: Sequence[str], worse: Sequence[str], gains: Mapping[str, Interval]
) -> str:
    """Return the first of the options, the cheapest first, that is not significantly worse.

    An option that gains no more than a cheaper one that is significantly worse is left out, too: a
    wider interval makes no option better.
    """
    most = -math.inf
    for name in names:
        if name not in worse and gains[name].value > most:
            return name
        most = max(most, gains[name].value)
    raise AssertionError("the best option is not worse than itself")


def _find_worse(means: Mapping[str, float], difference: Difference) -> list[str]:
    """Return the options that are significantly worse than the best; see ``compare_with_best``."""
    best = max(means, key=lambda name: means[name])
    others = [name for name in means if name != best]
    p_values = []
    for name in others:
        behind = difference(best, name)
        # Two options may be compared on a part of their seeds, on which the best may be worse.
        if behind is None or behind.value <= 0:
            p_values.append(1.0)
        else:
            p_values.append(p_value(behind))
    corrected = holm(p_values)
    return [name for name, p in zip(others, corrected, strict=True) if p < ALPHA]


def decide(
    options: pd.DataFrame,
    difference: Difference,
    choice: Choice | None = None,
    alone: bool = False,
) -> Decision:
    """Return what an owner of modules should do.

    Args:
        options: a row for each option, with its ``transfer``; ``old``, the name of the same module
            on the old model; ``not_attached``, True if it cannot be attached; and the columns of
            ``COST``.
        difference: compares two of the options, ``ZERO_SHOT``, and the old model.
        choice: of ``choose_option``, where options of several methods were compared.
        alone: True if one option is judged alone, whether or not it is the module as it is.
    """
    gains = {}
    for name in options.index:
        gain = difference(str(name), ZERO_SHOT)
        if gain is not None:
            gains[str(name)] = gain
    if choice is None:
        costs = cost_table(options)
        choice = choose_by_gain(gains, costs, difference)
    option = choice.option
    likely = _find_likely(options, gains)
    needed = None
    undecided = ""
    verdict: Verdict
    if not (alone or _is_known(options, gains)):
        verdict = "unknown"
        option = ""
    elif option:
        verdict = act(str(options.loc[option, "transfer"]))
    elif not gains:
        verdict = "unknown"
        if options["not_attached"].all():
            verdict = "retrain or zero-shot"
    elif choice.all_lose:
        has_labels = bool(options.loc[list(gains), "labels"].any())
        verdict = "zero-shot" if has_labels else "retrain or zero-shot"
    else:
        verdict = "cannot tell"
        needed = _count_needed(gains[likely], choice.held_out)
        undecided = likely
        if _is_undecided(choice.held_out):
            undecided = max(gains, key=lambda name: gains[name].value)
        if gains[likely].value > 0:
            option = likely
    old = options.loc[option or likely or options.index[0], "old"]
    over_old = difference(option or ZERO_SHOT, str(old))
    if verdict != "unknown" and judge_effect(over_old) == "loses":
        verdict = "stay"
        needed = None
    return Decision(verdict, option, likely, choice, gains.get(option), over_old, needed, undecided)


def _is_known(options: pd.DataFrame, gains: Mapping[str, Interval]) -> bool:
    """Return True if the module as it is was measured, or cannot be attached."""
    copied = options.index[options["transfer"] == COPIED]
    return any(name in gains or options.loc[name, "not_attached"] for name in copied)


def _count_needed(gain: Interval, held_out: Interval | None) -> float:
    """Return how many units would decide, by the spread of what does not decide yet."""
    undecided = gain
    if held_out is not None and _is_undecided(held_out):
        undecided = held_out
    return units_to_decide(undecided, undecided.units)


def _is_undecided(held_out: Interval | None) -> bool:
    """Return True if several methods were compared, and choosing is not shown to gain."""
    return held_out is not None and judge_effect(held_out) != "gains"


def _find_likely(options: pd.DataFrame, gains: Mapping[str, Interval]) -> str:
    """Return ``Decision.likely``. Nobody should collect labels for what is not shown to gain."""
    without_labels = [name for name in gains if not options.loc[name, "labels"]]
    return max(without_labels or gains, key=lambda name: gains[name].value, default="")


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


def first_better(
    option: str, retrained: Mapping[int, Mapping[str, float]], difference: Difference
) -> tuple[int, str, Interval] | None:
    """Return the least labels per class with which retraining is significantly better.

    With each number of labels, the most accurate method is compared.

    Args:
        option: the option that they are compared with.
        retrained: mean accuracies by labels per class and option.
        difference: compares two options.

    Returns:
        The labels, the retrained option, and by how much it is better; None if no number is.
    """
    for labels, means in retrained.items():
        best = max(means, key=lambda name: means[name])
        better = difference(best, option)
        if better is not None and judge_effect(better) == "gains":
            return labels, best, better
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
