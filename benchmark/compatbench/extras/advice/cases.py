"""What was measured of a method's modules on one upgrade, and how sure a mean of it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compatbench.data.cards import COPIED
from compatbench.extras.advice.price import Price, count_labels, price_ways, train_anew
from compatbench.messages import one_line
from compatbench.results.estimate import FEWEST_UNITS, LEVEL, Array, Interval, estimate
from compatbench.results.evaluation import Evaluation
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.method_results import SuiteResults
from compatbench.results.standing import compute_standing

OLD, ZERO_SHOT = "old model", "zero-shot"  # beside the ways


@dataclass(frozen=True)
class Case:
    """A method's modules on one upgrade; accuracies in percent, NaN where one is missing."""

    method: str
    upgrade: Upgrade
    shots: int | None  # None if it is not known, of a module that was imported
    tasks: tuple[str, ...]
    images: Array  # of the test sets, ``[tasks]``
    # ``[seeds, tasks]``: on the source (OLD), zero-shot on the target (one row), and by transfer.
    accuracy: Mapping[str, Array]
    reasons: Mapping[str, str]  # why a transfer cannot attach the module
    prices: tuple[Price, ...] = ()  # where modules were trained anew with labels
    # Accuracies of all methods trained anew, by labels per class and method, ``[seeds, tasks]``.
    anew: Mapping[int, Mapping[str, Array]] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What names the case, in the rows of frames."""
        return {"source": self.upgrade[0], "target": self.upgrade[1], "method": self.method}

    @property
    def ways(self) -> list[str]:
        """The transfers, copied first."""
        return [name for name in self.accuracy if name not in (OLD, ZERO_SHOT)]

    def estimate(self, way: str, minus: str | None = None) -> Interval | None:
        """A mean accuracy, or how much better one way is than another."""
        if way == minus or way not in self.accuracy:
            return None
        return self.difference(self.accuracy[way], None if minus is None else self.accuracy[minus])

    def difference(self, way: Array, minus: Array | None) -> Interval | None:
        """The same of accuracies, ``[seeds, tasks]``."""
        return estimate_mean(self.images, way, minus)

    @property
    def units(self) -> tuple[float, str]:
        """How many units its intervals are over, and what they are."""
        if len(self.tasks) >= FEWEST_UNITS:
            return len(self.tasks), "task"
        return float(self.images.sum()), "test image"


def estimate_mean(images: Array, way: Array, minus: Array | None = None) -> Interval | None:
    """A mean accuracy, or a mean difference, with a 95 % interval; None if any is missing.

    Of six tasks or more the interval is over tasks. Fewer are not a sample, and it is over images
    and seeds: p(1 − p) / n of each accuracy, after one right and one wrong image more (Agresti and
    Caffo, 2000), and Student's t over seeds. Answers of two ways for an image are taken to be
    independent, so the interval of a difference is wider than it has to be.

    Args:
        images: in the test sets, ``[tasks]``.
        way: accuracies in percent, ``[seeds, tasks]``.
        minus: those that are subtracted, likewise, or ``[1, tasks]`` if they have no seed.
    """
    from scipy.special import ndtri, stdtrit

    figures = way if minus is None else way - minus
    if np.isnan(figures).any():
        return None
    if figures.shape[1] >= FEWEST_UNITS:
        return estimate(figures.mean(axis=0))
    shares = [accuracy.mean(axis=0) / 100 for accuracy in (way, minus) if accuracy is not None]
    shares = [(share * images + 1) / (images + 2) for share in shares]
    variance = sum(float((p * (1 - p) / (images + 2)).sum()) for p in shares)
    outside, half = (1 - LEVEL / 100) / 2, 0.0
    if (seeds := len(figures)) > 1:
        half = -stdtrit(seeds - 1, outside) * figures.mean(axis=1).std(ddof=1) / math.sqrt(seeds)
    half = math.hypot(half, ndtri(outside) * 100 * math.sqrt(variance) / len(images))
    mean, least = float(figures.mean()), 0 if minus is None else -100
    return Interval(mean, max(least, mean - half), min(100, mean + half))


def read_cases(
    results: SuiteResults, expected: Expected, upgrade: Upgrade, methods: Sequence[str]
) -> Iterator[Case]:
    """The cases of some methods on one upgrade, at the most shots."""
    frame, shots = results.frame, max(expected.shots)
    here = frame.loc[(frame["backbone"] == upgrade[1]) & (frame["status"] == "ok")]
    known = here.groupby("test_set").first().reindex([*expected.tasks])
    zero_shot, images = (known[name].to_numpy("float64") for name in ("zero_shot", "total"))
    anew = {
        labels: {name: standing.figures("target") for name, standing in trained.items()}
        for labels, trained in train_anew(results, expected, upgrade).items()
        if trained
    }
    for method in methods:
        accuracy, reasons = {OLD: np.array([[np.nan]]), ZERO_SHOT: zero_shot[None]}, {}
        for name in results.transfers:
            if (measured := results.of(name).get(method)) is None:
                continue
            # A method that takes words when it is attached is untouched, and is ranked with words.
            way = measured.transfer or name
            standing = compute_standing(measured, expected, upgrade, shots)
            accuracy[way] = standing.figures("target")
            if np.isnan(accuracy[OLD]).any():
                accuracy[OLD] = standing.figures("source")
            if (refused := standing.refusals[1]).any():
                reasons[way] = one_line(str(standing.column("target", "reason")[refused][0]))
            if name == COPIED and expected.retrained:
                there = compute_standing(measured, expected, (upgrade[1], upgrade[1]), shots)
                accuracy[f"retrained+{shots}"] = there.figures("target")
        priced = bool(count_labels(results.transfers))
        prices = price_ways(results, expected, method, upgrade) if priced else []
        if len(expected.tasks) < FEWEST_UNITS:
            prices = [replace(p, worth=p.worth and Interval(p.worth.value)) for p in prices]
        figures = images, accuracy, reasons, tuple(prices), anew
        yield Case(method, upgrade, shots, expected.tasks, *figures)


def evaluated_case(evaluations: Sequence[Evaluation]) -> Case:
    """The case of one module, from evaluations by several transfers on one backbone."""
    first = evaluations[0]
    done = next((each.target for each in evaluations if each.target), None)
    accuracy = {
        OLD: first.source and first.source.accuracy,
        ZERO_SHOT: done and done.zero_shot_accuracy,
        **{each.transfer: each.target and each.target.accuracy for each in evaluations},
    }
    return Case(
        first.fitted.method,
        (first.fitted.source, first.backbone),
        first.fitted.shots,
        (first.test_set,),
        np.array([float(first.images)]),
        {name: np.array([[value]], dtype=float) for name, value in accuracy.items()},
        {each.transfer: one_line(each.reason) for each in evaluations if each.target is None},
    )
