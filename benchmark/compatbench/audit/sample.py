"""Which cells an audit runs again: at random, from the cheap and the expensive alike."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compatbench.engine.cell import Cell


@dataclass(frozen=True)
class Sampled:
    """A cell to run again.

    Attributes:
        part: from 1, the cheapest, to ``parts``.
        seconds: what its fit took, by its cost file.
    """

    suite: str
    cell: Cell
    part: int
    parts: int
    seconds: float

    def __str__(self) -> str:
        which = f"part {self.part} of {self.parts} by cost"
        return f"{self.cell} ({which}, fit {self.seconds:,.1f} s as recorded)"


def sample_cells(
    cells: Sequence[tuple[str, Cell]], seconds: Mapping[str, float], count: int, seed: int
) -> list[Sampled]:
    """Draws cells: they are ordered by recorded cost and cut into parts, one from each.

    So a sample never consists of cheap cells alone, which a forger would hope for. Within a
    part every cell is as likely as any other, but for a method that was drawn already.

    Args:
        cells: each with the name of its suite.
        seconds: cell key -> recorded seconds of its fit; unknown ones count as the longest.
    """
    unknown = max(seconds.values(), default=0.0)
    costs = {cell.key: seconds.get(cell.key, unknown) for _, cell in cells}
    ordered = sorted(cells, key=lambda one: (costs[one[1].key], one[1].name, one[1].key))
    parts = min(count, len(ordered))
    rng = random.Random(seed)
    drawn: list[Sampled] = []
    for number in range(parts):
        start, stop = number * len(ordered) // parts, (number + 1) * len(ordered) // parts
        part = ordered[start:stop]
        taken = {one.cell.name for one in drawn}
        suite, cell = rng.choice([one for one in part if one[1].name not in taken] or part)
        drawn.append(Sampled(suite, cell, number + 1, parts, costs[cell.key]))
    return drawn
