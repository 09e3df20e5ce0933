"""A method on one upgrade: its rows on source and target, and means, never over missing cells.

H is the harmonic mean of the accuracies on source and target. It is taken per dataset
and seed, averaged over datasets, and then over seeds. All figures are in percent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import fsum, isnan, nan, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compatbench.results.estimate import (
    FEWEST_UNITS,
    Interval,
    average,
    average_units,
    estimate,
    ratio_of_means,
)
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.measures.measure_registry import Side, list_measures
from compatbench.results.method_results import MethodResults, remembered
from compatbench.results.stored_method import MethodInfo

State = Literal[
    "complete", "at chance", "null", "not ranked", "not transferable", "incomplete", "refused"
]
MeasureName = str  # of a measure of an upgrade
Figures = NDArray[np.float64]
NULL = 1.0  # percent of zero-shot's answers: a module that changes fewer does nothing


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and the sample standard deviation (ddof=1) if there are several."""

    value: float
    std: float | None = None


def mean_over_seeds(values: ArrayLike | Sequence[Sequence[float | None]]) -> Mean | None:
    """The mean of ``values`` [seeds, datasets] over datasets, then over seeds.

    None if any value is missing (None or NaN), or if there are none.
    """
    table = np.asarray(values, dtype=float)
    if table.size == 0:
        return None
    per_seed = [average(row) for row in table.tolist()]
    mean = average(per_seed)
    if isnan(mean):
        return None
    squares = fsum((value - mean) ** 2 for value in per_seed)
    return Mean(mean, sqrt(squares / (len(per_seed) - 1)) if len(per_seed) > 1 else None)


def mean_of_all(values: Iterable[float | None]) -> float | None:
    """The mean of ``values``; None if any is missing (None or NaN), or if there are none."""
    known = [nan if value is None else value for value in values]
    mean = average(known) if known else nan
    return None if isnan(mean) else mean


class _Sides:
    def __init__(self, standing):
        self.standing = standing

    def __getitem__(self, name):
        side, _, column = name.partition("_")
        return _Values(self.standing.column(side, column))


class _Values(np.ndarray):
    def __new__(cls, values):
        return np.asarray(values).view(cls)

    def to_numpy(self, dtype):
        return np.asarray(self, dtype)


@dataclass(frozen=True, eq=False)
class Standing:
    """A method on one upgrade at one number of shots."""

    results: MethodResults
    upgrade: Upgrade
    tasks: tuple[str, ...]  # a name of each column: the test set's, unless upgrades are joined
    datasets: tuple[str, ...]  # the test set of each column: a task, or one that was asked for
    seeds: tuple[int, ...]
    # Positions in the table of ``results``, [seeds, tasks]; −1 where one is missing.
    rows: Mapping[Side, NDArray[np.intp]]
    unranked: str = ""  # why the suite gives the method no rank
    # Accuracy of guessing in percent, by dataset; of those whose number of classes is known.
    chance: Mapping[str, float] = field(default_factory=dict)
    memory: dict[Any, Any] = field(default_factory=dict, init=False)

    @property
    def info(self) -> MethodInfo:
        return self.results.info

    def column(self, side: Side, name: str) -> NDArray[Any]:
        """A column of the table at the rows of one side, ``[seeds, tasks]``."""
        return self.results.column(name)[self.rows[side]]

    def both(self, name: str) -> NDArray[Any]:
        """The same on source and target, ``[2, seeds, tasks]``."""
        return np.stack([self.column("source", name), self.column("target", name)])

    def figures(self, measure: MeasureName) -> Figures:
        """A measure of an upgrade, ``[seeds, tasks]``; NaN where a row it needs has no number.

        A method that ``compatbench check`` refused has no H.
        """
        if measure == "h" and self.info.refused:
            return np.full(self.rows["source"].shape, np.nan)
        return list_measures("upgrade")[measure].compute(_Sides(self))

    @cached_property
    def refusals(self) -> NDArray[np.bool_]:
        """Whether the module could not be attached, ``[2, seeds, tasks]``."""
        return self.both("status") == "not transferable"

    @cached_property
    def state(self) -> State:
        if self.info.refused:
            return "refused"
        if self.unranked:
            return "not ranked"
        if self.refusals.any():
            return "not transferable"
        if self.mean("h") is None:
            return "incomplete"
        if self.changes_nothing:
            return "null"
        return "at chance" if self.is_at_chance else "complete"

    @property
    def is_measured(self) -> bool:
        """Whether all of its figures are there; means over methods count it, ranked or not."""
        return self.state in ("complete", "at chance", "null")

    @property
    def changes_nothing(self) -> bool:
        """Whether a module that should changes next to none of zero-shot's answers, on either side.

        Not known, and so not said, of results without predictions and without that column.
        """
        if not self.info.learns:
            return False
        means = [mean_over_seeds(changed) for changed in self.both("changed")]
        return all(mean is not None and mean.value < NULL for mean in means)

    @property
    def is_at_chance(self) -> bool:
        """Whether the module on the target is less than twice as accurate as guessing.

        By its whole 95 % interval over datasets, and not said of fewer than a verdict takes.
        """
        means = dataset_means(self, "target") or {}
        above = [value - 2 * self.chance.get(name, nan) for name, value in means.items()]
        interval = estimate(above) if self.info.learns and len(above) >= FEWEST_UNITS else None
        return interval is not None and interval.high < 0

    @property
    def coverage(self) -> tuple[int, int]:
        """Cells with a result, and cells expected; a refusal is a result."""
        done = (self.refusals | (self.both("status") == "ok")).all(axis=0)
        return int(done.sum()), done.size

    @remembered
    def mean(self, measure: MeasureName) -> Mean | None:
        """A measure over all tasks and seeds; None if anything of it is missing."""
        return mean_over_seeds(self.figures(measure))

    def by_task(self, measure: MeasureName) -> dict[str, float | None]:
        """A measure over seeds, of each task; None if anything of it is missing."""
        columns = self.figures(measure).T.tolist()
        return dict(zip(self.tasks, map(mean_of_all, columns), strict=True))

    @cached_property
    def relative_flips(self) -> float | None:
        """Negative flips as a multiple of those of independent errors (arXiv:2011.09161).

        The mean of NFR over the mean of source accuracy times target error, as one ratio:
        that of a single dataset whose errors are few says little.
        """
        flips = self.figures("negative_flips")
        expected = self.figures("source") * (100 - self.figures("target")) / 100
        total = fsum(expected.flat)
        ratio = fsum(flips.flat) / total if total else nan
        return None if isnan(ratio) else ratio

    @cached_property
    def harmed(self) -> tuple[int, str, float] | tuple[None, None, None]:
        """How many datasets have a mean gain below 0, the task with the least gain, and that gain.

        On these the old module is worse than none. Nothing if any gain is missing.
        """
        means = self.by_task("gain")
        gains = [(mean, task) for task, mean in means.items() if mean is not None]
        if not gains or len(gains) < len(means):
            return None, None, None
        worst, task = min(gains)
        return sum(gain < 0 for gain, _ in gains), task, worst


@remembered
def compute_standing(
    results: MethodResults,
    expected: Expected,
    upgrade: Upgrade,
    shots: int,
    sets: tuple[tuple[str, str], ...] = (),
) -> Standing:
    """A method's standing; rows that the suite does not ask for are ignored.

    With ``sets``, each a task and a test set, it is on these in place of every task's own.
    """
    places = sets or tuple((task, task) for task in expected.tasks)
    seeds, rows = expected.seeds_of(results.info), {}
    for side, backbone in zip(("source", "target"), upgrade, strict=True):
        positions = [
            results.find_row(task, upgrade[0], backbone, name, shots, seed)
            for seed in seeds
            for task, name in places
        ]
        rows[side] = np.array(positions, dtype=np.intp).reshape(len(seeds), len(places))
    unranked = expected.unranked.get(results.info.name, "")
    chance = {} if sets else {task: 100 / count for task, count in expected.classes.items()}
    names = tuple(name for _, name in places)
    return Standing(results, upgrade, names, names, seeds, rows, unranked, chance)


@remembered
def follow_path(
    results: MethodResults, expected: Expected, path: Sequence[str], shots: int
) -> dict[Literal["accuracy", "gain"], list[Mean | None]]:
    """The module of ``path``'s source at the source and at every target, in order.

    Accuracy is in percent, gain over each model's own zero-shot in points, both in mean over
    datasets and seeds; None if anything of a step is missing.
    """
    source, *targets = path
    steps = [compute_standing(results, expected, (source, target), shots) for target in targets]
    return {
        "accuracy": [steps[0].mean("source"), *(step.mean("target") for step in steps)],
        "gain": [steps[0].mean("source_gain"), *(step.mean("gain") for step in steps)],
    }


@remembered
def dataset_means(standing: Standing, measure: MeasureName) -> dict[str, float] | None:
    """A measure per dataset, in mean over seeds and over the upgrades that were joined.

    A task counts once, however many upgrades it was measured on: all come from one set of
    modules. None if anything is missing.
    """
    figures = standing.figures(measure)
    if not figures.size or np.isnan(figures).any() or (standing.rows["target"] < 0).any():
        return None
    datasets = standing.datasets * len(standing.seeds)
    means = average_units({"dataset": datasets, measure: figures.ravel()}, "dataset")
    return dict(zip(means["dataset"], means[measure].tolist(), strict=True))


@remembered
def measure_interval(standing: Standing, measure: MeasureName) -> Interval | None:
    """The mean of a measure over datasets with its 95 % interval; None if anything is missing."""
    means = dataset_means(standing, measure)
    interval = None if means is None else estimate([*means.values()])
    if interval is None or not interval.bounded:
        return interval
    if list_measures("upgrade")[measure].unit != "percent":
        return interval
    return replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 100.0))


def paired_interval(first: Standing, second: Standing, measure: MeasureName) -> Interval | None:
    """The mean difference ``one`` − ``other`` over datasets; None if anything is missing."""
    left, right = dataset_means(first, measure), dataset_means(second, measure)
    if left is None or right is None:
        return None
    return estimate([left[dataset] - right[dataset] for dataset in left])


@remembered
def compute_retained(
    results: MethodResults, expected: Expected, upgrade: Upgrade, shots: int
) -> tuple[Mean | None, Mean | None, Interval | None]:
    """Gains of the old module and of one retrained on the target, and the share that it keeps.

    The share is the ratio of two means over datasets and seeds, not the mean of ratios: on a
    dataset where retraining gains next to nothing the ratio is next to anything, and one such
    dataset would decide the mean. There is no share of a gain whose 95 % interval reaches 0. Gains
    are in points over zero-shot, the share in percent; None where a cell is missing.
    """
    attached = compute_standing(results, expected, upgrade, shots)
    # A module that was fitted on the target is its own source.
    retrained = compute_standing(results, expected, (upgrade[1], upgrade[1]), shots)
    old, anew = dataset_means(attached, "gain"), dataset_means(retrained, "gain")
    kept, certain = None, measure_interval(retrained, "gain")
    if old is not None and anew is not None and certain is not None and certain.sign == 1:
        percent = [100 * gain for gain in old.values()]
        kept = estimate({"old": percent, "anew": [*anew.values()]}, statistic=ratio_of_means)
    return attached.mean("gain"), retrained.mean("gain"), kept
