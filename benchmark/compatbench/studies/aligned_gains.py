"""What aligning by words gains over copying, from results; nothing is computed anew."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from compatbench.results.bootstrap import Interval, mean_interval
from compatbench.results.measures import Mean, Upgrade, harmonic_mean, mean_over_seeds
from compatbench.results.rows import Row
from compatbench.results.store import MethodResults, SuiteResults


@dataclass(frozen=True)
class AlignedGain:
    """One method on one upgrade, copied and aligned; percent, mean over tasks.

    Attributes:
        zero_shot: of the target.
        gain: aligned minus copied accuracy on the target, in points, with an interval over the
            tasks.
        over_zero_shot: aligned minus the target's zero-shot, likewise.
    """

    method: str
    title: str
    source: Mean
    copied: Mean
    aligned: Mean
    copied_h: Mean
    aligned_h: Mean
    zero_shot: float
    gain: Interval
    over_zero_shot: Interval


# (task, seed) -> (source accuracy, target accuracy, the target's zero-shot)
_Figures = dict[tuple[str, int], tuple[float, float, float]]


def aligned_gains(results: SuiteResults, upgrade: Upgrade, shots: int) -> list[AlignedGain]:
    """The methods that have both ways on the same tasks and seeds, the largest gain first."""
    gains = []
    for name, aligned in results.of("words").items():
        plain = results.methods.get(name)
        if plain is None:
            continue
        one, other = (_figures(found.rows, upgrade, shots) for found in (plain, aligned))
        if one and one.keys() == other.keys() and _is_whole(one):
            gains.append(_compare(plain, one, other))
    return sorted(gains, key=lambda gain: (-gain.gain.value, gain.method))


def _is_whole(figures: _Figures) -> bool:
    """Whether every task has every seed: no mean is taken over what happens to be there."""
    tasks, seeds = {task for task, _ in figures}, {seed for _, seed in figures}
    return len(figures) == len(tasks) * len(seeds)


def _compare(plain: MethodResults, one: _Figures, other: _Figures) -> AlignedGain:
    tasks = sorted({task for task, _ in one})
    seeds = sorted({seed for _, seed in one})

    def mean(figures: _Figures, which: int | None) -> Mean:
        table = [
            [
                harmonic_mean(*figures[task, seed][:2])
                if which is None
                else figures[task, seed][which]
                for task in tasks
            ]
            for seed in seeds
        ]
        found = mean_over_seeds(table)
        assert found is not None
        return found

    def by_task(other_column: int) -> Interval:
        """The aligned accuracy less another figure, over the tasks."""
        base = one if other_column == 1 else other
        return mean_interval(
            [
                statistics.fmean(
                    other[task, seed][1] - base[task, seed][other_column] for seed in seeds
                )
                for task in tasks
            ]
        )

    return AlignedGain(
        method=plain.info.name,
        title=plain.info.title,
        source=mean(one, 0),
        copied=mean(one, 1),
        aligned=mean(other, 1),
        copied_h=mean(one, None),
        aligned_h=mean(other, None),
        zero_shot=mean(one, 2).value,
        gain=by_task(1),
        over_zero_shot=by_task(2),
    )


def _figures(rows: Iterable[Row], upgrade: Upgrade, shots: int) -> _Figures:
    """Of the tasks themselves, where both sides are there and no variant is meant."""
    source, target = upgrade
    sides: dict[tuple[str, int], dict[str, Row]] = {}
    for row in rows:
        if (row.source, row.shots) == (source, shots) and row.test_set == row.task:
            sides.setdefault((row.task, row.seed), {})[row.backbone] = row
    found: _Figures = {}
    for place, both in sides.items():
        if source in both and target in both:
            accuracies = both[source].accuracy, both[target].accuracy
            row = both[target]
            if accuracies[0] is None or accuracies[1] is None or not row.total:
                continue
            zero_shot = 100 * (row.zero_shot_correct or 0) / row.total
            found[place] = (accuracies[0], accuracies[1], zero_shot)
    return found
