"""Who stands where, and which places the data cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compatbench.results import rank_tests as ranking
from compatbench.results.measures import Standing


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
    """Splits complete standings, best first, where H of tasks and seeds can be told apart."""
    return ranking.tied_groups(standings, _differences)


def _differences(first: Standing, second: Standing) -> list[float]:
    a, b = _h_by_cell(first), _h_by_cell(second)
    seeds = {seed for _, seed in a} | {seed for _, seed in b}
    tasks = sorted({task for task, _ in a})
    return [_at(a, task, seed) - _at(b, task, seed) for task in tasks for seed in sorted(seeds)]


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
