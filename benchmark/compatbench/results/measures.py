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
from typing import Literal

from compatbench.results.rows import Order, Row
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
    # Not 2ab / (a + b): the product of two tiny accuracies would vanish.
    low, high = sorted((a, b))
    return 0.0 if high == 0 else min(2 * low / (1 + low / high), high)


def mean_over_seeds(values: Sequence[Sequence[float | None]]) -> Mean | None:
    """The mean of ``values`` [seeds, datasets] over datasets, then over seeds.

    Returns:
        None if any value is missing, or if there are none.
    """
    per_seed = []
    for row in values:
        present = [value for value in row if value is not None]
        if len(present) < len(row) or not row:
            return None
        per_seed.append(_average(present))
    if not per_seed:
        return None
    std = statistics.stdev(per_seed) if len(per_seed) > 1 else None
    return Mean(_average(per_seed), std)


def _average(values: Sequence[float]) -> float:
    # fsum is exact, so the order of the rows cannot show in the last digit.
    return math.fsum(values) / len(values)


@dataclass(frozen=True)
class Pair:
    """One fit, measured on its source and on one target.

    Attributes:
        source_row, target_row: None if the row is missing.
    """

    task: str
    seed: int
    source_row: Row | None
    target_row: Row | None

    def measure(self, measure: Measure) -> float | None:
        """A figure in percent, or None if a row that it needs is missing or has no number.

        ``gain`` and ``source_gain`` are over the zero-shot accuracy of the same row,
        in percentage points. Flips and inconsistent errors are shares of the images.
        """
        if measure in ("negative_flips", "positive_flips", "inconsistent_errors"):
            return _share(self.target_row, measure)
        if measure in ("source_ece", "target_ece"):
            row = self.source_row if measure == "source_ece" else self.target_row
            return None if row is None else row.ece
        source, target = _accuracy(self.source_row), _accuracy(self.target_row)
        if measure == "source":
            return source
        if measure == "target":
            return target
        if measure == "gain":
            return _gain(self.target_row)
        if measure == "source_gain":
            return _gain(self.source_row)
        return None if source is None or target is None else harmonic_mean(source, target)

    @property
    def answered(self) -> bool:
        """Whether both rows are there and neither failed; a refusal is an answer."""
        rows = (self.source_row, self.target_row)
        return all(row is not None and row.status != "failed" for row in rows)


def _accuracy(row: Row | None) -> float | None:
    return None if row is None else row.accuracy


def _share(
    row: Row | None,
    count: Literal["negative_flips", "positive_flips", "inconsistent_errors"],
) -> float | None:
    images = None if row is None else getattr(row, count)
    return None if row is None or images is None or not row.total else 100 * images / row.total


def _gain(row: Row | None) -> float | None:
    if row is None or row.accuracy is None or row.zero_shot is None:
        return None
    return row.accuracy - row.zero_shot


class RowIndex:
    """A method's rows by what they measured."""

    def __init__(self, results: MethodResults, expected: Expected) -> None:
        self._rows: dict[Order, Row] = {row.order: row for row in results.rows}
        self._expected = expected
        self._learns = results.info.learns

    def find(
        self, task: str, source: str, shots: int, seed: int, backbone: str, test_set: str
    ) -> Row | None:
        """The row, or None. Of a method that learns nothing, any shots and seed will do."""
        if self._learns:
            return self._rows.get((task, source, shots, seed, backbone, test_set))
        found = [
            row
            for any_shots in self._expected.shots
            for any_seed in self._expected.seeds
            if (row := self._rows.get((task, source, any_shots, any_seed, backbone, test_set)))
        ]
        return min(found, key=lambda row: row.status == "failed", default=None)


@dataclass(frozen=True)
class Standing:
    """A method on one upgrade at one number of shots.

    Attributes:
        pairs: one per expected seed and task, in the suite's order.
        fit_seconds: mean wall clock of its fits; None if that of any is unknown.
    """

    info: MethodInfo
    upgrade: Upgrade
    shots: int
    pairs: tuple[Pair, ...]
    fit_seconds: float | None = None

    @cached_property
    def state(self) -> State:
        if self._refused:
            return "not transferable"
        return "incomplete" if self.mean("h") is None else "complete"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the module could not be attached: each reason once, sorted."""
        return tuple(sorted({row.reason for row in self._refused}))

    @property
    def refused(self) -> int:
        """Cells whose module could not be attached."""
        rows = [(pair.source_row, pair.target_row) for pair in self.pairs]
        return sum(any(row in self._refused for row in both if row) for both in rows)

    @property
    def _refused(self) -> list[Row]:
        rows = [row for pair in self.pairs for row in (pair.source_row, pair.target_row)]
        return [row for row in rows if row is not None and row.status == "not transferable"]

    @property
    def coverage(self) -> tuple[int, int]:
        """Cells answered, and cells expected."""
        return sum(pair.answered for pair in self.pairs), len(self.pairs)

    @property
    def parameters(self) -> tuple[int, int] | None:
        """The smallest and the largest module's parameters; they may differ by dataset."""
        rows = [pair.source_row for pair in self.pairs]
        counts = [row.parameters for row in rows if row is not None and row.status == "ok"]
        return (min(counts), max(counts)) if counts else None

    def mean(self, measure: Measure, task: str | None = None) -> Mean | None:
        """A measure over all tasks, or of one task; None if anything of it is missing."""
        if (measure, task) not in self._means:
            self._means[measure, task] = mean_over_seeds(self._by_seed(measure, task))
        return self._means[measure, task]

    @cached_property
    def _means(self) -> dict[tuple[Measure, str | None], Mean | None]:
        return {}

    @property
    def h_of_averages(self) -> Mean | None:
        """H of the average accuracies, in place of the average of H; some papers print this."""
        values: list[list[float]] = []
        for source, target in zip(self._by_seed("source"), self._by_seed("target"), strict=True):
            means = mean_over_seeds([source]), mean_over_seeds([target])
            if means[0] is None or means[1] is None:
                return None
            values.append([harmonic_mean(means[0].value, means[1].value)])
        return mean_over_seeds(values)

    @property
    def relative_flips(self) -> float | None:
        """Negative flips as a multiple of those of independent errors (arXiv:2011.09161).

        The mean of NFR over the mean of source accuracy times target error, as one ratio:
        that of a single dataset whose errors are few says little.
        """
        flips, expected = [], []
        for pair in self.pairs:
            source, target = pair.measure("source"), pair.measure("target")
            share = pair.measure("negative_flips")
            if source is None or target is None or share is None:
                return None
            flips.append(share)
            expected.append(source * (100 - target) / 100)
        return math.fsum(flips) / math.fsum(expected) if math.fsum(expected) else None

    @property
    def harmed(self) -> tuple[int, str, float] | None:
        """On how many datasets the old module is worse than none, and the worst of all.

        Returns:
            The number of datasets whose mean gain over seeds is below 0, and the task with
            the least gain with that gain; None if any gain is missing.
        """
        gains: list[tuple[float, str]] = []
        for task in dict.fromkeys(pair.task for pair in self.pairs):
            mean = self.mean("gain", task)
            if mean is None:
                return None
            gains.append((mean.value, task))
        if not gains:
            return None
        worst, task = min(gains)
        return sum(gain < 0 for gain, _ in gains), task, worst

    def _by_seed(self, measure: Measure, task: str | None = None) -> list[list[float | None]]:
        by_seed: dict[int, list[float | None]] = {}
        for pair in self.pairs:
            if task in (None, pair.task):
                by_seed.setdefault(pair.seed, []).append(pair.measure(measure))
        return list(by_seed.values())


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
    index = RowIndex(results, expected)
    sets = [test_set] if test_set else [(task, task) for task in expected.tasks]
    pairs = tuple(
        Pair(
            task,
            seed,
            index.find(task, source, shots, seed, source, name),
            index.find(task, source, shots, seed, target, name),
        )
        for seed in expected.seeds_of(results.info)
        for task, name in sets
    )
    return Standing(results.info, upgrade, shots, pairs, _fit_seconds(results, pairs))


def _fit_seconds(results: MethodResults, pairs: Iterable[Pair]) -> float | None:
    known = {cost.key: cost.fit_seconds for cost in results.costs}
    times = [known.get(pair.source_row.key) if pair.source_row else None for pair in pairs]
    present = [time for time in times if time is not None]
    return _average(present) if present and len(present) == len(times) else None
