"""What is computed from rows: H, gains, means and their spread; never over missing cells.

H is the harmonic mean of the accuracies on source and target. It is taken per dataset
and seed, averaged over datasets, and then over seeds. All figures are in percent.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compatbench.data.cards.suite import COPIED
from compatbench.results.store import MethodInfo, MethodResults

Measure = Literal[
    "source",
    "target",
    "h",
    "gain",
    "source_gain",
    "negative_flips",
    "positive_flips",
    "inconsistent_errors",
    "source_ece",
    "target_ece",
]
State = Literal["complete", "not transferable", "incomplete"]
Upgrade = tuple[str, str]
Figures = NDArray[np.float64]
Positions = NDArray[np.intp]

# Measure -> on which backbone, and the column of the frame; H needs both sides.
_COLUMNS: dict[Measure, tuple[Literal["source", "target"], str]] = {
    "source": ("source", "accuracy"),
    "target": ("target", "accuracy"),
    "gain": ("target", "gain"),
    "source_gain": ("source", "gain"),
    "negative_flips": ("target", "negative_flips_share"),
    "positive_flips": ("target", "positive_flips_share"),
    "inconsistent_errors": ("target", "inconsistent_errors_share"),
    "source_ece": ("source", "ece"),
    "target_ece": ("target", "ece"),
}


@dataclass(frozen=True)
class Expected:
    """What a suite asks for, so that what is missing is known to be missing.

    Attributes:
        upgrades: (source, target) pairs; ``upgrade_pairs`` makes them from paths.
        variants: task -> its variants in the suite; tasks without any may be left out.
        retrained: whether modules are also fitted on every target.
    """

    tasks: tuple[str, ...]
    shots: tuple[int, ...]
    seeds: tuple[int, ...]
    upgrades: tuple[Upgrade, ...]
    variants: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    retrained: bool = False

    def seeds_of(self, info: MethodInfo) -> tuple[int, ...]:
        """The seeds a method is run for: one only, if it learns nothing."""
        return self.seeds if info.learns else self.seeds[:1]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, and the sample standard deviation (ddof=1) if there are several."""

    value: float
    std: float | None = None


def upgrade_pairs(paths: Iterable[Sequence[str]]) -> tuple[Upgrade, ...]:
    """Upgrade paths as (source, target) pairs: every target is measured with the first's module."""
    pairs = [(path[0], target) for path in paths for target in path[1:]]
    return tuple(dict.fromkeys(pairs))


def harmonic_mean(a: float, b: float) -> float:
    """The harmonic mean of two accuracies in percent; 0 if both are 0."""
    return float(_harmonic_means(np.float64(a), np.float64(b)))


def _harmonic_means(a: Figures | np.float64, b: Figures | np.float64) -> Figures:
    # Not 2ab / (a + b): the product of two tiny accuracies would vanish.
    low, high = np.minimum(a, b), np.maximum(a, b)
    with np.errstate(invalid="ignore"):
        return np.where(high == 0, 0.0, np.minimum(2 * low / (1 + low / high), high))


def mean_over_seeds(values: ArrayLike | Sequence[Sequence[float | None]]) -> Mean | None:
    """The mean of ``values`` [seeds, datasets] over datasets, then over seeds.

    Returns:
        None if any value is missing (None or NaN), or if there are none.
    """
    table = np.asarray(values, dtype=float)
    if table.size == 0 or np.isnan(table).any():
        return None
    per_seed = [average(row) for row in table.tolist()]
    std = statistics.stdev(per_seed) if len(per_seed) > 1 else None
    return Mean(average(per_seed), std)


def average(values: Sequence[float]) -> float:
    """The mean of one or more values, the same in any order."""
    # fsum is exact, so the order of the rows cannot show in the last digit.
    return math.fsum(values) / len(values)


def mean_of_all(values: Sequence[float | None]) -> float | None:
    """The mean of ``values``; None if any of them is missing, or if there are none."""
    present = [value for value in values if value is not None]
    return average(present) if present and len(present) == len(values) else None


def find_row(results: MethodResults, place: tuple[str, str, int, int, str, str]) -> int:
    """The position of a row in the frame, or −1 if it is missing.

    Of a method that learns nothing, a row of any shots and seed will do.

    Args:
        place: task, source, shots, seed, backbone and test set.
    """
    if results.info.learns:
        return results.positions.get((results.transfer or COPIED, *place), -1)
    task, source, _, _, backbone, test_set = place
    found = results.any_draw.get((task, source, backbone, test_set), ())
    return min(found, key=lambda row: results.column("status")[row] == "failed", default=-1)


@dataclass(frozen=True, eq=False)
class Standing:
    """A method on one upgrade at one number of shots.

    Attributes:
        tasks: a name for each column; different where upgrades are joined.
        datasets: the task of each column.
        seeds: one for each line.
        source_rows, target_rows: positions in the frame of ``results``, ``[seeds, tasks]``;
            −1 where the row is missing.
    """

    results: MethodResults
    upgrade: Upgrade
    shots: int
    tasks: tuple[str, ...]
    datasets: tuple[str, ...]
    seeds: tuple[int, ...]
    source_rows: Positions
    target_rows: Positions

    @property
    def info(self) -> MethodInfo:
        return self.results.info

    @property
    def title(self) -> str:
        """The method's title; with the transfer, where the module is not attached as it is."""
        return self.results.title

    @property
    def transfer(self) -> str:
        """How the modules were brought to the target."""
        return self.results.transfer or COPIED

    def column(self, side: Literal["source", "target"], name: str) -> NDArray[Any]:
        """A column of the frame at the rows of one side, ``[seeds, tasks]``; see there."""
        rows = self.source_rows if side == "source" else self.target_rows
        return self.results.column(name)[rows]

    def figures(self, measure: Measure) -> Figures:
        """A measure in percent, ``[seeds, tasks]``; NaN where a row it needs has no number.

        ``gain`` and ``source_gain`` are over the zero-shot accuracy of the same row,
        in percentage points. Flips and inconsistent errors are shares of the images.
        """
        if measure == "h":
            return _harmonic_means(self.figures("source"), self.figures("target"))
        return self.column(*_COLUMNS[measure])

    @cached_property
    def _statuses(self) -> NDArray[Any]:
        """``[2, seeds, tasks]``: of source and target; empty where the row is missing."""
        return np.stack([self.column("source", "status"), self.column("target", "status")])

    @cached_property
    def state(self) -> State:
        if (self._statuses == "not transferable").any():
            return "not transferable"
        return "incomplete" if self.mean("h") is None else "complete"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the module could not be attached: each reason once, sorted."""
        reasons = np.stack([self.column("source", "reason"), self.column("target", "reason")])
        return tuple(sorted(set(reasons[self._statuses == "not transferable"])))

    @property
    def refused(self) -> int:
        """Cells whose module could not be attached."""
        return int((self._statuses == "not transferable").any(axis=0).sum())

    @property
    def coverage(self) -> tuple[int, int]:
        """Cells with a result, and cells expected; a refusal is a result."""
        done = np.isin(self._statuses, ("ok", "not transferable")).all(axis=0)
        return int(done.sum()), done.size

    @property
    def parameters(self) -> tuple[int, int] | None:
        """The smallest and the largest module's parameters; they may differ by dataset."""
        counts = self.column("source", "parameters")[self._statuses[0] == "ok"]
        return (int(counts.min()), int(counts.max())) if counts.size else None

    def mean(self, measure: Measure, task: str | None = None) -> Mean | None:
        """A measure over all tasks, or of one task; None if anything of it is missing."""
        if (measure, task) not in self._means:
            figures = self.figures(measure)
            if task is not None:
                figures = figures[:, [name == task for name in self.tasks]]
            self._means[measure, task] = mean_over_seeds(figures)
        return self._means[measure, task]

    @cached_property
    def _means(self) -> dict[tuple[Measure, str | None], Mean | None]:
        return {}

    @property
    def h_of_averages(self) -> Mean | None:
        """H of the average accuracies, in place of the average of H; some papers print this."""
        if self.mean("h") is None:
            return None
        sides = self.figures("source").tolist(), self.figures("target").tolist()
        pairs = zip(*sides, strict=True)
        return mean_over_seeds([[harmonic_mean(average(a), average(b))] for a, b in pairs])

    @property
    def relative_flips(self) -> float | None:
        """Negative flips as a multiple of those of independent errors (arXiv:2011.09161).

        The mean of NFR over the mean of source accuracy times target error, as one ratio:
        that of a single dataset whose errors are few says little.
        """
        flips = self.figures("negative_flips")
        expected = self.figures("source") * (100 - self.figures("target")) / 100
        if np.isnan([flips, expected]).any():
            return None
        total = math.fsum(expected.flat)
        return math.fsum(flips.flat) / total if total else None

    @property
    def harmed(self) -> tuple[int, str, float] | None:
        """On how many datasets the old module is worse than none, and the worst of all.

        Returns:
            The number of datasets whose mean gain over seeds is below 0, and the task with
            the least gain with that gain; None if any gain is missing.
        """
        if self.mean("gain") is None:
            return None
        means = [(self.mean("gain", task), task) for task in self.tasks]
        gains = [(mean.value, task) for mean, task in means if mean is not None]
        worst, task = min(gains)
        return sum(gain < 0 for gain, _ in gains), task, worst


def compute_standing(
    results: MethodResults,
    expected: Expected,
    upgrade: Upgrade,
    shots: int,
    test_set: tuple[str, str] | None = None,
) -> Standing:
    """A method's standing; rows that the suite does not ask for are passed over.

    Args:
        test_set: (task, variant) to look at one test set alone, in place of every task's own.
    """
    source, target = upgrade
    sets = [test_set] if test_set else [(task, task) for task in expected.tasks]
    seeds = expected.seeds_of(results.info)
    at_source, at_target = (
        np.array(
            [
                find_row(results, (task, source, shots, seed, backbone, name))
                for seed in seeds
                for task, name in sets
            ],
            dtype=np.intp,
        ).reshape(len(seeds), len(sets))
        for backbone in (source, target)
    )
    tasks = tuple(task for task, _ in sets)
    return Standing(results, upgrade, shots, tasks, tasks, seeds, at_source, at_target)
