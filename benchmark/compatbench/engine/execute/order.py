"""The order in which cells are run, and the estimates of their time that it depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import log

import pandas as pd

from compatbench.engine.cell import Cell
from compatbench.engine.execute.cell_queue import CellT

ABOUT_THE_SAME = 4.0  # times


def order_cells(cells: Iterable[Cell], seconds: Callable[[Cell], float]) -> list[Cell]:
    """Cells by seed first, then cheap methods before costly ones, then by source and task.

    A ranking needs every method on every task, and one seed of each. So all cells of the first
    seed come first: the whole ranking stands early, and further seeds make it sharper. Within a
    seed the cheap methods, which most rows belong to, are there at once. Methods of about the
    same cost are run task by task, so that features are shared while they are in memory.

    Args:
        cells: as planned; their order decides which seed and which task come first.
        seconds: that a cell takes, more than 0.
    """
    cells = list(cells)
    if not cells:
        return []
    frame = pd.DataFrame(
        {
            "seed": pd.factorize(pd.Series([cell.seed for cell in cells]))[0],
            "method": [cell.name for cell in cells],
            "place": pd.factorize(pd.Series([f"{c.task}\n{c.source}" for c in cells]))[0],
            "seconds": [seconds(cell) for cell in cells],
        }
    )
    means = frame.groupby("method")["seconds"].transform("mean")
    frame["cost"] = means.map(_cost_class)
    order = frame.sort_values(["seed", "cost", "place"], kind="stable").index
    return [cells[i] for i in order]


def longest_first(cells: Iterable[CellT], seconds: Callable[[CellT], float]) -> list[CellT]:
    """Cells by seed first, then costly ones before cheap ones.

    This is for many workers at once, who finish a seed soonest if its long cells begin first.
    Among cells of about the same cost, draws stay together, as their features do in memory.
    """
    cells = list(cells)
    seeds = {seed: rank for rank, seed in enumerate(dict.fromkeys(cell.seed for cell in cells))}
    return sorted(
        cells, key=lambda cell: (seeds[cell.seed], -_cost_class(seconds(cell)), -cell.shots)
    )


def _cost_class(seconds: float) -> int:
    return round(log(seconds, ABOUT_THE_SAME))
