"""Known and other classes, old and new model: what a suite with a protocol measures.

A module was trained on *own* classes (the base half; or all of the task that it was trained on),
and is tested on *other* ones (the new half; or those of other tasks), on source and target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from compatbench.data.cards.schemas import Protocol
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.errors import CompatbenchError
from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.estimate import Interval, estimate, harmonic_mean_of_means
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.method_results import MethodResults, remembered
from compatbench.results.standing import compute_standing
from compatbench.results.stored_method import MethodInfo

Classes = Literal["own", "other"]
Model = Literal["source", "target"]
CLASSES: tuple[Classes, ...] = ("own", "other")
MODELS: tuple[Model, ...] = ("source", "target")
State = Literal["complete", "not applicable", "not transferable", "incomplete"]
# Column of ``FourWays.frame``, after the classes -> the measure that it is of.
_MEASURES = {
    "source": "source",
    "target": "target",
    "source_gain": "source_gain",
    "target_gain": "gain",
    "negative_flips": "negative_flips",
}
_COLUMNS = tuple(f"{classes}_{name}" for classes in CLASSES for name in _MEASURES)
_BOUNDED = ("four", "forgotten")


@dataclass(frozen=True, eq=False)
class FourWays:
    """A method on one upgrade, on own and other classes, before and after.

    Attributes:
        frame: a row for each seed and each pair of a test set of own classes and one of others.
            ``own_source`` is the top-1 accuracy on own classes of the source in percent,
            ``own_source_gain`` what that is over its zero-shot among these classes in points,
            ``own_negative_flips`` the share of the images, and so on; ``h_own`` is H of source and
            target, this project's H, ``four`` the harmonic mean of all four accuracies, and
            ``forgotten`` how much more of its gain a module loses on other classes than on its
            own, in points. NaN where there is no number.
        reasons: why modules cannot be attached, by classes; empty if they can.
    """

    info: MethodInfo
    upgrade: Upgrade
    frame: pd.DataFrame
    reasons: Mapping[Classes, str]
    memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def state(self) -> State:
        """``not applicable`` if other classes mean nothing to it, and it has figures of its own."""
        if self.reasons["own"] or self.reasons["other"]:
            alone = not self.reasons["own"] and self.reasons["other"].startswith(NOT_APPLICABLE)
            return "not applicable" if alone else "not transferable"
        return "incomplete" if self.mean("four") is None else "complete"

    @cached_property
    def _columns(self) -> dict[str, list[Any]]:
        return {str(name): self.frame[name].tolist() for name in self.frame}

    @remembered
    def mean(self, name: str) -> Interval | None:
        """The mean of a column of ``frame`` over seeds, then over pairs, with its interval.

        ``h_source`` and ``h_target`` are no columns, but the field's H, as papers report it: the
        harmonic mean of own and other classes' mean accuracies over datasets and seeds.
        """
        model = name.removeprefix("h_")
        if name != model and model in MODELS:
            both = ("pair", f"own_{model}", f"other_{model}")
            figures = {column: self._columns[column] for column in both}
            return estimate(figures, "pair", harmonic_mean_of_means)
        return estimate({"pair": self._columns["pair"], name: self._columns[name]}, "pair")


def list_pairs(expected: Expected) -> tuple[tuple[str, str], ...]:
    """The pairs of a task that modules are trained on and a test set of other classes."""
    return tuple((task, name) for task in expected.tasks for name in expected.variants[task])


def require_other_classes(suite: str, protocol: Protocol) -> None:
    """CompatbenchError for a suite without a protocol."""
    if protocol == "few-shot":
        raise CompatbenchError(
            f"suite '{suite}' tests no other classes than those trained on; take one with a "
            "'protocol', such as mini-base-to-new"
        )


def measure_four_ways(
    methods: Iterable[MethodResults], expected: Expected, upgrade: Upgrade, shots: int
) -> list[FourWays]:
    """Every method on one upgrade: complete ones by ``four``, best first, then the others by H."""

    def order(ways: FourWays) -> tuple[bool, float, str]:
        figure = ways.mean("four" if ways.state == "complete" else "h_own")
        return ways.state != "complete", -figure.value if figure else 0.0, ways.info.name

    return sorted((_measure(method, expected, upgrade, shots) for method in methods), key=order)


@remembered
def _measure(results: MethodResults, expected: Expected, upgrade: Upgrade, shots: int) -> FourWays:
    columns, reasons = dict[str, Any](), dict[Classes, str]()
    pairs, seeds = list_pairs(expected), expected.seeds_of(results.info)
    for number, classes in enumerate(CLASSES):
        sets = tuple((pair[0], pair[number]) for pair in pairs)
        standing = compute_standing(results, expected, upgrade, shots, sets)
        for name, measure in _MEASURES.items():
            columns[f"{classes}_{name}"] = standing.figures(measure).T.ravel()
        reasons[classes] = next(map(str, standing.both("reason")[standing.refusals]), "")
    where = [(" / ".join(pair), seed) for pair in pairs for seed in seeds]
    four = np.array([columns[f"{c}_{m}"] for c in CLASSES for m in MODELS])
    known, other = (columns[f"{c}_source_gain"] - columns[f"{c}_target_gain"] for c in CLASSES)
    for classes in CLASSES:
        both = (columns[f"{classes}_{model}"] for model in MODELS)
        columns[f"h_{classes}"] = harmonic_mean(*both)
    with np.errstate(divide="ignore"):
        columns["four"] = np.where(four.min(axis=0) == 0, 0.0, 4 / (1 / four).sum(axis=0))
    columns["forgotten"] = other - known
    names = {"pair": [pair for pair, _ in where], "seed": [seed for _, seed in where]}
    return FourWays(results.info, upgrade, pd.DataFrame(names | columns), reasons)


def four_ways_frame(methods: Iterable[FourWays]) -> pd.DataFrame:
    """One row per method: means in percent, gains and ``forgotten`` in points.

    Columns are named as in ``FourWays.mean``; ``four`` and ``forgotten`` are with the bounds of
    their 95 % intervals. NaN where anything is missing.
    """
    rows = []
    for ways in methods:
        row: dict[str, object] = {"method": ways.info.name, "state": ways.state}
        for name in (*_COLUMNS, *("h_own", "h_other", "h_source", "h_target"), *_BOUNDED):
            interval = ways.mean(name)
            row[name] = np.nan if interval is None else interval.value
        for name in _BOUNDED:
            interval = ways.mean(name)
            row[f"{name}_low"] = np.nan if interval is None else interval.low
            row[f"{name}_high"] = np.nan if interval is None else interval.high
        rows.append(row | {"reason": ways.reasons["own"] or ways.reasons["other"]})
    return pd.DataFrame(rows)
