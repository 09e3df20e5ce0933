"""Known and other classes, old and new model: what a suite with a protocol measures.

A module was trained on *own* classes (the base half; or all of the task that it was trained on),
and is tested on *other* ones (the new half; or those of other tasks), on source and target.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from compatbench.data.cards.schemas import Protocol
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.errors import CompatbenchError
from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.bootstrap import (
    Interval,
    draw_resamples,
    mean_interval,
    percentile_interval,
)
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.standing import Figures, MeasureName, Standing, compute_standing
from compatbench.results.store import MethodInfo, MethodResults

Classes = Literal["own", "other"]
Model = Literal["source", "target"]
CLASSES: tuple[Classes, ...] = ("own", "other")
MODELS: tuple[Model, ...] = ("source", "target")
State = Literal["complete", "not applicable", "not transferable", "incomplete"]


@dataclass(frozen=True, eq=False)
class FourWays:
    """A method on one upgrade, on own and other classes, before and after.

    Figures are in percent or points, one for each seed and each pair of an own and another test
    set, ``[seeds, pairs]``; NaN where a row has no number. Intervals are bootstraps over pairs.
    """

    info: MethodInfo
    upgrade: Upgrade
    pairs: tuple[tuple[str, str], ...]  # the test set of own classes, and that of others
    accuracy: dict[tuple[Classes, Model], Figures]  # top-1
    gain: dict[tuple[Classes, Model], Figures]  # over the model's zero-shot among these classes
    flips: dict[Classes, Figures]  # negative ones, share of the test images
    reasons: dict[Classes, str]  # why modules cannot be attached, if some cannot

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
        both = [_by_pair(self.accuracy[one, model]) for one in CLASSES]
        if any(np.isnan(one).any() for one in both):
            return None
        value = float(harmonic_mean(*(one.mean() for one in both)))
        if len(self.pairs) == 1:
            return Interval(value)
        draws = draw_resamples(len(self.pairs))
        return percentile_interval(value, harmonic_mean(*(one[draws].mean(axis=1) for one in both)))

    def over_models(self, classes: Classes) -> Interval | None:
        """H of source and target, per dataset and seed, then averaged: this project's H."""
        return self.mean(harmonic_mean(*(self.accuracy[classes, one] for one in MODELS)))

    @cached_property
    def four(self) -> Interval | None:
        """The harmonic mean of all four accuracies, per dataset and seed, then averaged."""
        table = np.stack([self.accuracy[c, m] for c in CLASSES for m in MODELS])
        low = table.min(axis=0)
        with np.errstate(divide="ignore"):
            means = np.where(low == 0, 0.0, 4 / (1 / table).sum(axis=0))
        return self.mean(np.where(np.isnan(low), np.nan, means))

    @cached_property
    def forgotten(self) -> Interval | None:
        """How much more of its gain a module loses on other classes than on its own, in points.

        (gain on the source − gain on the target) on other classes, less the same on own ones.
        """
        lost = {one: self.gain[one, "source"] - self.gain[one, "target"] for one in CLASSES}
        return self.mean(lost["other"] - lost["own"])

    def mean(self, figures: Figures) -> Interval | None:
        """The mean over seeds, then over pairs, with its interval; None if any is missing."""
        by_pair = _by_pair(figures)
        return None if len(by_pair) == 0 or np.isnan(by_pair).any() else mean_interval(by_pair)


def _by_pair(figures: Figures) -> Figures:
    return figures.mean(axis=0) if len(figures) else np.full(figures.shape[1], np.nan)


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
    found = [_measure(one, expected, upgrade, shots) for one in methods]

    def order(one: FourWays) -> tuple[bool, float, str]:
        figure = one.four if one.state == "complete" else one.over_models("own")
        return one.state != "complete", -figure.value if figure else 0.0, one.info.name

    return sorted(found, key=order)


def _measure(results: MethodResults, expected: Expected, upgrade: Upgrade, shots: int) -> FourWays:
    pairs = list_pairs(expected)
    accuracy: dict[tuple[Classes, Model], Figures] = {}
    gain: dict[tuple[Classes, Model], Figures] = {}
    flips: dict[Classes, Figures] = {}
    reasons: dict[Classes, str] = {}
    for number, classes in enumerate(CLASSES):
        ones = [
            compute_standing(results, expected, upgrade, shots, (task, (task, other)[number]))
            for task, other in pairs
        ]
        accuracy |= {(classes, model): _join(ones, model) for model in MODELS}
        gain[classes, "source"] = _join(ones, "source_gain")
        gain[classes, "target"] = _join(ones, "gain")
        flips[classes] = _join(ones, "negative_flips")
        refused = (str(reason) for one in ones for reason in one.both("reason")[one.refusals])
        reasons[classes] = next(refused, "")
    return FourWays(results.info, upgrade, pairs, accuracy, gain, flips, reasons)


def _join(ones: Iterable[Standing], measure: MeasureName) -> Figures:
    return np.hstack([one.figures(measure) for one in ones])


def four_ways_frame(found: Iterable[FourWays]) -> pd.DataFrame:
    """One row per method: means in percent, gains and ``forgotten`` in points.

    Columns are named by classes and model: ``own_source`` is the accuracy on own classes of the
    source, ``h_source`` the H over classes there, ``h_own`` that over models of own classes,
    ``four`` of all four, with the bounds of its 95 % interval. NaN where anything is missing.
    """
    rows = []
    for one in found:
        row: dict[str, object] = {"method": one.info.name, "state": one.state}
        figures: dict[str, Interval | None] = {}
        for classes in CLASSES:
            for model in MODELS:
                figures[f"{classes}_{model}"] = one.mean(one.accuracy[classes, model])
                figures[f"{classes}_{model}_gain"] = one.mean(one.gain[classes, model])
            figures[f"h_{classes}"] = one.over_models(classes)
            figures[f"{classes}_negative_flips"] = one.mean(one.flips[classes])
        figures |= {f"h_{model}": one.over_classes(model) for model in MODELS}
        figures |= {"four": one.four, "forgotten": one.forgotten}
        row |= {name: np.nan if it is None else it.value for name, it in figures.items()}
        for name in ("four", "forgotten"):
            bounds = figures[name]
            row[f"{name}_low"] = np.nan if bounds is None else bounds.low
            row[f"{name}_high"] = np.nan if bounds is None else bounds.high
        rows.append(row | {"reason": one.reasons["own"] or one.reasons["other"]})
    return pd.DataFrame(rows)
