"""Which cells an audit runs again: at random, from the cheap and the dear alike."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compatbench.engine.cell import Cell


@dataclass(frozen=True)
class Sampled:
    """A cell to run again.

    Attributes:
        stratum: from 1, the cheapest, to ``strata``.
        seconds: what its fit took, by its cost file.
    """

    cell: Cell
    stratum: int
    strata: int
    seconds: float

    def __str__(self) -> str:
        which = f"part {self.stratum} of {self.strata} by cost"
        return f"{self.cell} ({which}, fit {self.seconds:,.1f} s as recorded)"


def sample_cells(
    cells: Sequence[Cell], seconds: Mapping[str, float], count: int, seed: int
) -> list[Sampled]:
    """Draws cells: they are ordered by recorded cost and cut into parts, one from each.

    So a sample never consists of cheap cells alone, which a forger would hope for. Within a
    part every cell is as likely as any other, but for a method that was drawn already.

    Args:
        seconds: cell key -> recorded seconds of its fit; unknown ones count as the dearest.
    """
    if count < 1 or not cells:
        return []
    unknown = max(seconds.values(), default=0.0)
    costs = {cell.key: seconds.get(cell.key, unknown) for cell in cells}
    ordered = sorted(cells, key=lambda cell: (costs[cell.key], cell.name, cell.key))
    strata = min(count, len(ordered))
    rng = random.Random(seed)
    drawn: list[Sampled] = []
    for number in range(strata):
        start, stop = number * len(ordered) // strata, (number + 1) * len(ordered) // strata
        part = ordered[start:stop]
        taken = {one.cell.name for one in drawn}
        cell = rng.choice([cell for cell in part if cell.name not in taken] or part)
        drawn.append(Sampled(cell, number + 1, strata, costs[cell.key]))
    return drawn
