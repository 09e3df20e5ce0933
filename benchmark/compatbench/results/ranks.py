"""The places of methods on an upgrade or on several, and which the data cannot tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from compatbench.results.bootstrap import mean_interval
from compatbench.results.measures import Expected, Figures, Standing, Upgrade, compute_standing
from compatbench.results.method_results import MethodResults


@dataclass(frozen=True)
class Ranked:
    """A standing with its place.

    Attributes:
        rank: ``2``, or ``2=`` if tied; empty for a method that has no H.
    """

    rank: str
    standing: Standing


def rank_methods(standings: Sequence[Standing]) -> list[Ranked]:
    """Complete standings by H, best first; then those not transferable, then the incomplete."""
    complete = [item for item in standings if item.state == "complete"]
    complete.sort(key=lambda item: (-_h(item), item.info.name))
    ranked = []
    place = 1
    for group in tied_groups(complete):
        ranked += [Ranked(f"{place}=" if len(group) > 1 else str(place), item) for item in group]
        place += len(group)
    for state in ("not transferable", "incomplete"):
        rest = [item for item in standings if item.state == state]
        ranked += [Ranked("", item) for item in sorted(rest, key=lambda item: item.info.name)]
    return ranked


def rank_upgrades(
    methods: Iterable[MethodResults], expected: Expected, upgrades: Sequence[Upgrade], shots: int
) -> list[Ranked]:
    """Ranks methods by H on one upgrade, or by their mean over datasets and several upgrades.

    A method without a result in any cell of any of the upgrades has no mean.
    """
    return rank_methods(
        [
            _join([compute_standing(method, expected, upgrade, shots) for upgrade in upgrades])
            for method in methods
        ]
    )


def _join(standings: Sequence[Standing]) -> Standing:
    """One standing over several upgrades: a dataset counts once for each."""
    if len(standings) == 1:
        return standings[0]
    return replace(
        standings[0],
        tasks=tuple(
            f"{one.upgrade[0]} → {one.upgrade[1]}: {task}"
            for one in standings
            for task in one.tasks
        ),
        datasets=tuple(task for one in standings for task in one.datasets),
        source_rows=np.hstack([one.source_rows for one in standings]),
        target_rows=np.hstack([one.target_rows for one in standings]),
    )


def tied_groups(standings: Sequence[Standing]) -> list[list[Standing]]:
    """Splits complete standings, best first, where their H can be told apart.

    A method is tied with the best of a group if the 95 % interval of their mean difference
    contains 0, by a paired bootstrap over tasks and seeds. The best is compared, not the
    neighbour, so that a chain of small steps is not one tie.
    """
    groups: list[list[Standing]] = []
    for item in standings:
        if groups and _tied(_differences(groups[-1][0], item)):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _tied(differences: Figures) -> bool:
    # One pair of numbers says nothing about chance.
    return len(differences) > 1 and mean_interval(differences).sign == 0


def _differences(first: Standing, second: Standing) -> Figures:
    seeds = sorted({*first.seeds, *second.seeds})
    return (_h_by_cell(first, seeds) - _h_by_cell(second, seeds)).ravel()


def _h_by_cell(standing: Standing, seeds: Sequence[int]) -> Figures:
    """``[tasks, seeds]``, tasks by name; a method that learns nothing has the same at each seed."""
    tasks = sorted(range(len(standing.tasks)), key=lambda i: standing.tasks[i])
    known = {seed: i for i, seed in enumerate(standing.seeds)}
    return standing.figures("h").T[np.ix_(tasks, [known.get(seed, 0) for seed in seeds])]


def _h(standing: Standing) -> float:
    mean = standing.mean("h")
    return 0.0 if mean is None else mean.value
