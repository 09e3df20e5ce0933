"""Known and other classes, old and new model: what a suite with a protocol measures.

A module was trained on *own* classes (the base half; or all of the task that it was trained on),
and is tested on *other* ones (the new half; or those of other tasks), on source and target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from compatbench.data.cards.schemas import Protocol
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.errors import CompatbenchError
from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.estimate import Interval, estimate, harmonic_mean_of_means
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.method_results import MethodInfo, MethodResults, remembered
from compatbench.results.standing import compute_standing

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


@dataclass(frozen=True, eq=False)
class FourWays:
    """A method on one upgrade, on own and other classes, before and after.

    Attributes:
        frame: a row for each seed and each pair of a test set of own classes and one of others.
            ``own_source`` is the top-1 accuracy on own classes of the source in percent,
            ``own_source_gain`` what that is over its zero-shot among these classes in points,
            ``own_negative_flips`` the share of the images, and so on; NaN where there is no number.
        reasons: why modules cannot be attached, by classes; empty if they can.
    """

    info: MethodInfo
    upgrade: Upgrade
    frame: pd.DataFrame
    reasons: Mapping[Classes, str]

    @cached_property
    def state(self) -> State:
        """``not applicable`` if other classes mean nothing to it, and it has figures of its own."""
        if self.reasons["own"] or self.reasons["other"]:
            alone = not self.reasons["own"] and self.reasons["other"].startswith(NOT_APPLICABLE)
            return "not applicable" if alone else "not transferable"
        return "incomplete" if self.four is None else "complete"

    def over_classes(self, model: Model) -> Interval | None:
        """The harmonic mean of own and other classes' mean accuracies: the field's H.

        As papers report it, of the means over datasets and seeds.
        """
        both = self.frame[["pair", f"own_{model}", f"other_{model}"]]
        return estimate(both, "pair", harmonic_mean_of_means)

    def over_models(self, classes: Classes) -> Interval | None:
        """H of source and target, per dataset and seed, then averaged: this project's H."""
        return self._mean(harmonic_mean(*(self.frame[f"{classes}_{model}"] for model in MODELS)))

    @cached_property
    def four(self) -> Interval | None:
        """The harmonic mean of all four accuracies, per dataset and seed, then averaged."""
        table = self.frame[[f"{c}_{m}" for c in CLASSES for m in MODELS]].to_numpy(float)
        with np.errstate(divide="ignore"):
            means = np.where(table.min(axis=1) == 0, 0.0, 4 / (1 / table).sum(axis=1))
        return self._mean(means)

    @cached_property
    def forgotten(self) -> Interval | None:
        """How much more of its gain a module loses on other classes than on its own, in points.

        (gain on the source − gain on the target) on other classes, less the same on own ones.
        """
        own, other = (
            self.frame[f"{classes}_source_gain"] - self.frame[f"{classes}_target_gain"]
            for classes in CLASSES
        )
        return self._mean(other - own)

    def mean(self, column: str) -> Interval | None:
        """The mean of a column of ``frame`` over seeds, then over pairs, with its interval."""
        return self._mean(self.frame[column])

    def _mean(self, figures: object) -> Interval | None:
        return estimate({"pair": self.frame["pair"], "figures": figures}, "pair")


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
        figure = ways.four if ways.state == "complete" else ways.over_models("own")
        return ways.state != "complete", -figure.value if figure else 0.0, ways.info.name

    return sorted((_measure(method, expected, upgrade, shots) for method in methods), key=order)


@remembered
def _measure(results: MethodResults, expected: Expected, upgrade: Upgrade, shots: int) -> FourWays:
    columns, reasons = dict[str, list[object]](), dict[Classes, str]()
    for number, classes in enumerate(CLASSES):
        standings = [
            compute_standing(results, expected, upgrade, shots, (pair[0], pair[number]))
            for pair in list_pairs(expected)
        ]
        for name, measure in _MEASURES.items():
            figures = [standing.figures(measure) for standing in standings]
            columns[f"{classes}_{name}"] = np.concatenate(figures).ravel().tolist()
        refused = (
            str(why) for standing in standings for why in standing.both("reason")[standing.refusals]
        )
        reasons[classes] = next(refused, "")
    seeds = expected.seeds_of(results.info)
    where = [(" / ".join(pair), seed) for pair in list_pairs(expected) for seed in seeds]
    frame = pd.DataFrame(where, columns=pd.Index(["pair", "seed"])).assign(**columns)
    return FourWays(results.info, upgrade, frame, reasons)


def four_ways_frame(methods: Iterable[FourWays]) -> pd.DataFrame:
    """One row per method: means in percent, gains and ``forgotten`` in points.

    Columns are named as in ``FourWays.frame``; ``h_source`` is the H over classes on the source,
    ``h_own`` that over models of own classes, ``four`` of all four, with the bounds of its 95 %
    interval. NaN where anything is missing.
    """
    rows = []
    for ways in methods:
        estimates = {
            name: ways.mean(name) for name in ways.frame.columns if name not in ("pair", "seed")
        }
        estimates |= {f"h_{classes}": ways.over_models(classes) for classes in CLASSES}
        estimates |= {f"h_{model}": ways.over_classes(model) for model in MODELS}
        estimates |= {"four": ways.four, "forgotten": ways.forgotten}
        row: dict[str, object] = {"method": ways.info.name, "state": ways.state}
        row |= {name: np.nan if it is None else it.value for name, it in estimates.items()}
        for name in ("four", "forgotten"):
            bounds = estimates[name]
            row[f"{name}_low"] = np.nan if bounds is None else bounds.low
            row[f"{name}_high"] = np.nan if bounds is None else bounds.high
        rows.append(row | {"reason": ways.reasons["own"] or ways.reasons["other"]})
    return pd.DataFrame(rows)
