"""Who stands where, and which places the data cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compatbench.leaderboard.measures import Standing

RESAMPLES = 2000
SEED = 20895


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


def tied_groups(standings: Sequence[Standing]) -> list[list[Standing]]:
    """Splits complete standings, best first, where H can be told apart.

    A method is tied with the best of a group if the 95 % interval of their mean
    difference in H contains 0, by a paired bootstrap over tasks and seeds. The best is
    compared, not the neighbour, so that a chain of small steps is not one tie.
    """
    groups: list[list[Standing]] = []
    for item in standings:
        if groups and _tied(groups[-1][0], item):
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _tied(first: Standing, second: Standing) -> bool:
    a, b = _h_by_cell(first), _h_by_cell(second)
    seeds = {seed for _, seed in a} | {seed for _, seed in b}
    tasks = sorted({task for task, _ in a})
    differences = np.array(
        [_at(a, task, seed) - _at(b, task, seed) for task in tasks for seed in sorted(seeds)]
    )
    # One pair of numbers says nothing about chance.
    if len(differences) < 2:
        return False
    # The raw stream is the same in every version of numpy; Generator's draws need not be.
    raw = np.random.PCG64(SEED).random_raw(RESAMPLES * len(differences))
    draws = (raw % np.uint64(len(differences))).astype(np.intp).reshape(RESAMPLES, -1)
    low, high = np.percentile(differences[draws].mean(axis=1), [2.5, 97.5])
    return bool(low <= 0 <= high)


def _h_by_cell(standing: Standing) -> dict[tuple[str, int], float]:
    values = {(pair.task, pair.seed): pair.measure("h") for pair in standing.pairs}
    return {cell: value for cell, value in values.items() if value is not None}


def _at(values: dict[tuple[str, int], float], task: str, seed: int) -> float:
    """H of a cell; a method that learns nothing has the same at every seed."""
    if (task, seed) in values:
        return values[task, seed]
    return next(value for (name, _), value in values.items() if name == task)


def _h(standing: Standing) -> float:
    mean = standing.mean("h")
    return 0.0 if mean is None else mean.value
