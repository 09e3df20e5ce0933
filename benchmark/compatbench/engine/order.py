"""The order in which cells are run, and their division among the jobs of an array.

Every job has to make the same division, however far the others are. So it depends only on the cells
and their guessed costs, not on this machine or on the times of earlier cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from math import log
from typing import Any, TypeVar

from compatbench.engine.cell import Cell

CLASS_FACTOR = 4.0  # between the costs of two classes of methods
QUICK_SHARE = 0.03  # of all the time, which the quick methods take together
MANY_WORKERS = 64  # for whom a cell is long ...
LONG_SHARE = 0.25  # ... that takes this share of one worker's time, or more

# A ``Cell``, or a stand-in of tests with a seed.
CellT = TypeVar("CellT", bound=Any)


def order_cells(
    cells: Sequence[Cell],
    seconds: Callable[[Cell], float],
    last: Collection[str] = (),
    workers: int = 1,
) -> list[Cell]:
    """Return the cells in an order in which a ranking exists early, and soon changes.

    * Seed by seed, so that further seeds make the whole ranking sharper.
    * Of a seed, first the tasks that are ranked, then those that come ``last``, which are in no
      mean.
    * Then quick methods, on as many tasks at a time as there are ``workers``. Each worker encodes
      the images of another task, and methods share the features while they are in memory. So all
      quick methods have finished some tasks after seconds.
    * The others follow method by method, in classes of about equal cost. Within a class they are in
      order of cost. Classes take turns, so that each has had the same share of its time at any
      moment: between two methods of a minute there are some of ten seconds.

    The order that is given decides which seed and which task come first.
    """
    spent: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        spent[cell.name].append(seconds(cell))
    methods = sorted(spent, key=lambda name: (sum(spent[name]) / len(spent[name]), name))
    spans = _share_turns(methods, spent)

    ranked_first = sorted(cells, key=lambda cell: cell.task in last)
    seeds = _rank(cell.seed for cell in cells)
    groups = _rank(_group_of(cell) for cell in ranked_first)
    method_ranks = _rank(methods)

    def turn(cell: Cell) -> tuple[float, ...]:
        group = groups[_group_of(cell)]
        method = method_ranks[cell.name]
        block = (seeds[cell.seed], cell.task in last)
        if cell.name not in spans:
            return (*block, 0, group // workers, method, group)
        start, end = spans[cell.name]
        return (*block, 1, start + (end - start) * group / len(groups), method)

    return sorted(cells, key=turn)


def _share_turns(
    methods: Sequence[str], spent: dict[str, list[float]]
) -> dict[str, tuple[float, float]]:
    """Return when each method has its turn, as two shares of the time of its class.

    Quick methods have none.

    Args:
        methods: in order of the mean cost of their cells.
        spent: the seconds of each method's cells.
    """
    total = {name: sum(seconds) for name, seconds in spent.items()}
    whole = sum(total.values())
    classes: dict[int, list[str]] = defaultdict(list)
    before = 0.0
    for name in methods:
        before += total[name]
        if before > QUICK_SHARE * whole:
            cost_class = round(log(total[name] / len(spent[name]), CLASS_FACTOR))
            classes[cost_class].append(name)
    spans = {}
    for names in classes.values():
        ends = []
        end = 0.0
        for name in names:
            end += total[name]
            ends.append(end)
        start = 0.0
        for name, end in zip(names, ends, strict=True):
            spans[name] = (start / ends[-1], end / ends[-1])
            start = end
    return spans


def longest_first(cells: Sequence[CellT], seconds: Callable[[CellT], float]) -> list[CellT]:
    """Return the cells by seed, and of a seed the costly ones before the cheap ones.

    This is for many workers at once, which finish soonest if the long cells begin first. Cells that
    take a large part of one worker's whole time go before all others, of any seed.
    """
    seeds = _rank(cell.seed for cell in cells)
    whole = sum(map(seconds, cells))
    long = LONG_SHARE * whole / MANY_WORKERS

    def turn(cell: CellT) -> tuple[float, ...]:
        cost = seconds(cell)
        return (cost < long, seeds[cell.seed], -cost)

    return sorted(cells, key=turn)


def divide(cells: Sequence[Cell], seconds: Sequence[float], count: int) -> list[list[Cell]]:
    """Divide the cells of a plan into parts that take about the same time.

    Cells of one source and task stay together, with all their seeds, so that every part can run
    seed by seed. The list of all cells is cut where the time is up: at most ``count - 1`` groups
    are split, and no part takes longer than an equal share and the longest cell.

    Args:
        seconds: the time of each cell, above 0.
    """
    groups = _rank(_group_of(cell) for cell in cells)
    order = sorted(range(len(cells)), key=lambda i: groups[_group_of(cells[i])])
    parts: list[list[Cell]] = [[] for _ in range(count)]
    total = sum(seconds)
    before = 0.0
    for i in order:
        middle = before + seconds[i] / 2
        part = min(int(count * middle / total), count - 1)
        parts[part].append(cells[i])
        before += seconds[i]
    return parts


def _group_of(cell: Cell) -> Hashable:
    """Return the group of a cell: its cells load the same weights, and features of one task."""
    return cell.source, cell.task


def _rank(values: Iterable[Hashable]) -> dict[Hashable, int]:
    """Return the rank of each value, by its first appearance."""
    return {value: rank for rank, value in enumerate(dict.fromkeys(values))}
