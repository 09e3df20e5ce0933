"""The ranking of methods on an upgrade or on several: places and figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from compatbench.data.cards import COPIED
from compatbench.messages import one_line
from compatbench.results.estimate import Interval
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.measures import list_measures
from compatbench.results.method_results import MethodResults
from compatbench.results.standing import (
    Mean,
    MeasureName,
    Standing,
    compute_standing,
    dataset_means,
    mean_of_all,
    measure_interval,
)

Kind = Literal["floor", "shallow", "deep", "transferred"]

ALPHA = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class Ranked:
    """A method in a ranking."""

    rank: str  # its place: ``2``, or ``2=`` if tied; empty for a method that has no H
    standing: Standing

    @property
    def place(self) -> str:
        """The rank, or why a method with figures has none, or nothing."""
        state = self.standing.state
        return self.rank or (state if state in ("at chance", "null") else "")

    @property
    def transfer(self) -> str:
        """How its module reached the target; empty if it was attached untouched, without words."""
        transfer = self.standing.results.ranked_with
        return "" if transfer in (COPIED, None) else transfer

    @property
    def track(self) -> str:
        """What it is ranked among, if that is not the untouched modules that see no test set."""
        return " ".join(filter(None, (self.transfer, self.sees_tests * "transductive")))

    @property
    def sees_tests(self) -> bool:
        """Whether it sees all images of a test set before it answers."""
        return self.standing.info.sees_tests

    @property
    def kind(self) -> Kind:
        depth = self.standing.info.depth
        return "transferred" if self.transfer else "floor" if depth == "none" else depth

    @property
    def title(self) -> str:
        """One line, not long; with its track, if it has one of its own."""
        title = one_line(self.standing.info.title, longest=40) or self.standing.info.name
        return f"{title} ({self.track})" if self.track else title

    def value(self, measure: MeasureName) -> float | None:
        """A mean with four decimals: none depends on the last digit."""
        return rounded(exact(self.standing.mean(measure)), 4)

    def by_task(self, measure: MeasureName) -> list[float | None]:
        """The same of each task."""
        return [rounded(mean, 4) for mean in self.standing.by_task(measure).values()]

    @cached_property
    def figures(self) -> dict[str, Any]:
        """All that is known of the method, as ``ranking_frame`` has it; None is missing."""
        standing, info = self.standing, self.standing.info
        interval = measure_interval(standing, "h")
        bounds = (interval.low, interval.high) if interval and interval.bounded else (None, None)
        fitted = standing.column("source", "status") == "ok"
        parameters, sizes = (
            [int(number) for number in standing.column("source", name)[fitted]]
            for name in ("parameters", "module_bytes")
        )
        peaks = np.fmax(*standing.both("peak_memory"))  # known for all cells, or not at all
        fit_seconds = mean_of_all(standing.column("source", "fit_seconds").flat)
        place = self.rank.removesuffix("=")
        measures = list_measures("upgrade").values()
        spreads = {side: standing.mean(side) for side in ("source", "target", "h")}
        harmed, worst_task, worst_gain = standing.harmed
        return {
            "rank": int(place) if place else None,
            "tied": place != self.rank,
            "method": info.name,
            **{measure.column: exact(standing.mean(measure.name)) for measure in measures},
            "h_low": bounds[0],
            "h_high": bounds[1],
            **{f"{side}_std": mean and mean.std for side, mean in spreads.items()},
            "relative_nfr": standing.relative_flips,
            "harmed": harmed,
            "worst_task": worst_task,
            "worst_gain": worst_gain,
            "parameters": max(parameters, default=None),
            "parameters_low": min(parameters, default=None),
            "module_bytes": max(sizes, default=None),
            "fit_seconds": fit_seconds if info.learns else None,
            "evaluate_seconds": mean_of_all(standing.column("target", "evaluate_seconds").flat),
            "peak_memory": int(peaks.max()) if peaks.size and np.isfinite(peaks).all() else None,
            "cells": standing.coverage[1],
            "measured": standing.coverage[0],
            "refused": int(standing.refusals.any(axis=0).sum()),
            "reasons": tuple(sorted(set(standing.both("reason")[standing.refusals]))),
            "title": info.title,
            "paper": info.paper,
            "depth": info.depth,
            "learns": info.learns,
            "transfer": standing.results.transfer,
            "state": standing.state,
        }


def exact(mean: Mean | Interval | None) -> float | None:
    """The value of a mean, if there is one."""
    return None if mean is None else mean.value


def rounded(value: float | None, digits: int) -> float | None:
    """A figure without more digits than these, if there is one."""
    # Adding 0 makes -0.0 the 0 that it is.
    return None if value is None else round(value, digits) + 0.0


def rank_methods(standings: Sequence[Standing]) -> list[Ranked]:
    """Standings by H; then those of methods that see test images, ranked among themselves."""
    tracks = (
        [standing for standing in standings if standing.info.sees_tests == sees]
        for sees in (False, True)
    )
    return [standing for track in tracks for standing in _rank_track(track)]


def _rank_track(standings: Sequence[Standing]) -> list[Ranked]:
    """Complete standings by H, best first; then those without a rank, by their state.

    The best shares its place with those that follow, up to the first that differs from it: by
    Student's paired test over tasks, with Holm's correction for all methods that are compared with
    it. The same is done for those that are left. The best is compared, not the neighbour, so that a
    chain of small steps is not one tie.
    """
    standings = sorted(standings, key=lambda item: item.info.name)
    complete = [item for item in standings if item.state == "complete"]
    left = sorted(complete, key=lambda item: exact(item.mean("h")) or 0.0, reverse=True)
    ranked: list[Ranked] = []
    while left:
        size = 1 + _count_tied(left[0], left[1:])
        place = f"{len(ranked) + 1}{'=' if size > 1 else ''}"
        ranked += [Ranked(place, item) for item in left[:size]]
        left = left[size:]
    for state in ("at chance", "null", "not ranked", "not transferable", "incomplete", "refused"):
        ranked += [Ranked("", item) for item in standings if item.state == state]
    return ranked


def rank_upgrades(
    methods: Iterable[MethodResults], expected: Expected, upgrades: Sequence[Upgrade], shots: int
) -> list[Ranked]:
    """Ranks methods by H on one upgrade, or by their mean over datasets and several upgrades.

    A method without a result in any cell of any of the upgrades has no mean.
    """
    by_method = (
        [compute_standing(method, expected, upgrade, shots) for upgrade in upgrades]
        for method in methods
    )
    return rank_methods([_join(standings) for standings in by_method])


def _join(standings: Sequence[Standing]) -> Standing:
    """One standing over several upgrades: a dataset counts once for each."""
    first, *others = standings
    if not others:
        return first
    return replace(
        first,
        tasks=tuple(
            f"{' → '.join(standing.upgrade)}: {task}"
            for standing in standings
            for task in standing.tasks
        ),
        datasets=tuple(task for standing in standings for task in standing.datasets),
        rows={
            side: np.hstack([standing.rows[side] for standing in standings]) for side in first.rows
        },
    )


def _count_tied(best: Standing, others: Sequence[Standing]) -> int:
    """How many methods stand before the first whose H differs from that of the best."""
    tables = [dataset_means(standing, "h") or {} for standing in (best, *others)]
    scores = np.array([list(table.values()) for table in tables])
    return next((i for i, p in enumerate(holm(paired_test(scores))) if p < ALPHA), len(others))


def paired_test(scores: ArrayLike) -> list[float]:
    """p values of Student's paired test of the first row of ``[methods, datasets]`` with others.

    1 where there is no difference, or only one dataset.
    """
    from scipy.special import stdtr

    first, *others = np.asarray(scores, dtype=float)
    count, p_values = len(first), []
    for other in others:
        differences = first - other
        error = differences.std(ddof=1) / math.sqrt(count) if count > 1 else math.inf
        if error:
            p_values.append(float(2 * stdtr(count - 1, -abs(differences.mean()) / error)))
        else:
            p_values.append(float(not differences.any()))
    return p_values


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number, as Holm does (1979)."""
    corrected, least = [0.0] * len(p_values), 0.0
    for done, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = least
    return corrected
