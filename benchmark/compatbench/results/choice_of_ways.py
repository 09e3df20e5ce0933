"""The rule of every verdict: of ways that were measured, which to take, from intervals alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from compatbench.results.estimate import FEWEST_UNITS, Array, Interval, estimate


@dataclass(frozen=True, eq=False)
class Way:
    """A way of going on after an upgrade."""

    name: str
    gain: Interval  # over the new model's zero-shot, in points
    cost: tuple[Any, ...]  # the least is the cheapest; it begins with the labels per class
    figures: Array  # accuracies in percent, of which differences are taken


_Way = TypeVar("_Way", bound=Way)
Difference = Callable[[Array, Array], Interval | None]  # of the figures of two ways


def difference_of_units(way: Array, minus: Array) -> Interval | None:
    """The difference of figures that are one for each unit, ``[units]``."""
    return estimate(way - minus)


def choose_way(ways: Sequence[_Way], difference: Difference = difference_of_units) -> _Way | None:
    """The cheapest way that is not clearly worse than the best; None where it cannot be told.

    Only ways that gain as a whole interval are chosen from. Clearly worse is one whose
    ``difference`` from the best is below 0 as a whole interval, and so is any that gains no more
    than one that is clearly worse and costs no more: a wide interval makes no way better.
    """
    gaining = [way for way in ways if way.gain.sign == 1]
    if not gaining:
        return None
    best = max(gaining, key=lambda way: way.gain.value)

    def is_worse(way: _Way) -> bool:
        behind = None if way is best else difference(way.figures, best.figures)
        return behind is not None and behind.sign == -1

    worse = [way for way in gaining if is_worse(way)]

    def is_good(way: _Way) -> bool:
        return not any(
            other is way or (other.gain.value >= way.gain.value and other.cost <= way.cost)
            for other in worse
        )

    return min(filter(is_good, gaining), key=lambda way: (way.cost, -way.gain.value))


class Choice(NamedTuple, Generic[_Way]):
    """The way that is chosen, or where none can be, that which gains most.

    Attributes:
        shown: whether it is chosen.
        harmful: whether each way is shown to lose.
        held_out: what it gains to choose by other tasks.
    """

    way: _Way
    shown: bool
    harmful: bool
    held_out: Interval | None


def choose_checked(
    ways: Sequence[_Way], gains: Sequence[Array], difference: Difference = difference_of_units
) -> Choice[_Way]:
    """``choose_way``, if choosing by other tasks gains, too.

    The best of many is the best by luck as well; ``gains`` are by task, ``[tasks]`` for each way.
    """
    held_out = estimate(gains_of_choosing(gains))
    certain = held_out is not None and held_out.sign == 1
    chosen = choose_way(ways, difference) if certain else None
    harmful = all(way.gain.sign == -1 for way in ways)
    likely = max(ways, key=lambda way: way.gain.value)
    return Choice(chosen or likely, chosen is not None, harmful, held_out)


def first_better(
    figures: Array,
    anew: Mapping[int, Mapping[str, Array]],
    difference: Difference = difference_of_units,
) -> tuple[int, str, Interval] | None:
    """The least labels per class with which training anew is clearly better than a way.

    Of the methods trained anew with k labels, ``anew[k]``, the most accurate is compared.

    Returns:
        The labels, the method, and by how much it is better; None if no number of labels is.
    """
    for labels, methods in anew.items():
        name = max(methods, key=lambda name: float(methods[name].mean()))
        over = difference(methods[name], figures)
        if over is not None and over.sign == 1:
            return labels, name, over
    return None


def units_to_decide(interval: Interval, units: float) -> float:
    """How many units a difference of this size takes to be told from 0, if it has this spread.

    An interval narrows as 1/√units. Infinite of a difference of 0; at least ``FEWEST_UNITS``.
    """
    if not interval.value or not interval.bounded:
        return math.inf
    reach = (interval.high - interval.low) / 2 / abs(interval.value)
    return max(FEWEST_UNITS, math.ceil(units * reach**2))


def gains_of_choosing(gains: ArrayLike) -> Array:
    """What it gains on each task to take the way that is best on the other tasks, ``[tasks]``.

    The best of many is best by luck as well, and so its gain is too high on the tasks by which it
    was chosen; this one is not. ``gains`` are ``[ways, tasks]``.
    """
    table = np.asarray(gains, dtype=float)
    chosen = (table.sum(axis=1, keepdims=True) - table).argmax(axis=0)
    return table[chosen, np.arange(table.shape[1])]
