"""In which order cells are run, and how they are divided among the jobs of an array.

Every job has to make the same division, however far the others are. So it depends on the cells
alone, and on what they are counted to cost; not on this machine, nor on what earlier cells took.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import accumulate, pairwise
from math import log
from typing import Any, TypeVar

from compatbench.engine.cell import Cell

ABOUT_THE_SAME = 4.0  # times
QUICK_SHARE = 0.03  # of all the time, which the methods that are called quick take together
MANY_WORKERS = 64  # among whom cells count as long ...
LONG_SHARE = 0.25  # ... that take this share of a worker's time, or more

# A ``Cell``, or what tests have for one: with a seed.
CellT = TypeVar("CellT", bound=Any)


def order_cells(
    cells: Sequence[Cell],
    seconds: Callable[[Cell], float],
    last: Collection[str] = (),
    workers: int = 1,
) -> list[Cell]:
    """Cells in an order in which a ranking stands early, and soon changes again and again.

    Seed by seed, so that further seeds make the whole ranking sharper; of a seed, first what is
    ranked, then the tasks that come ``last``, which are in no mean. Quick methods are run on as
    many tasks at a time as there are ``workers``, of which each encodes the images of another, and
    whose features are shared while they are in memory: so all of them have some tasks after
    seconds. The others follow method by method. Those of a class of cost are in order of cost, and
    classes take turns so that each has had the same share of its time at any moment: between two
    methods of a minute there are some of ten seconds.

    The order that is given decides which seed and which task come first.
    """
    spent: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        spent[cell.name].append(seconds(cell))
    total, before = {name: sum(spent[name]) for name in spent}, 0.0
    by_cost = sorted(spent, key=lambda name: (total[name] / len(spent[name]), name))
    shares, classes = dict[str, tuple[float, float]](), defaultdict[int, list[str]](list)
    for name in by_cost:
        before += total[name]
        if before > QUICK_SHARE * sum(total.values()):
            classes[round(log(total[name] / len(spent[name]), ABOUT_THE_SAME))].append(name)
    for names in classes.values():
        of_class = [0.0, *accumulate(total[name] for name in names)]
        spans = ((start / of_class[-1], end / of_class[-1]) for start, end in pairwise(of_class))
        shares |= zip(names, spans, strict=True)
    ranked_first = sorted(cells, key=lambda cell: cell.task in last)
    seeds, groups = _rank(cell.seed for cell in cells), _rank(map(_group_of, ranked_first))
    places = _rank(by_cost)

    def turn(cell: Cell) -> tuple[float, ...]:
        group, share = groups[_group_of(cell)], shares.get(cell.name)
        place = seeds[cell.seed], cell.task in last
        if share is None:
            return (*place, 0, group // workers, places[cell.name], group)
        start, end = share
        return (*place, 1, start + (end - start) * group / len(groups), places[cell.name])

    return sorted(cells, key=turn)


def longest_first(cells: Sequence[CellT], seconds: Callable[[CellT], float]) -> list[CellT]:
    """Cells by seed first, then costly ones before cheap ones.

    This is for many workers at once, who finish soonest if what takes long begins first. Cells that
    take a large part of what a worker has to do in all go before all others, of any seed.
    """
    seeds = _rank(cell.seed for cell in cells)
    long = LONG_SHARE * sum(map(seconds, cells)) / MANY_WORKERS
    return sorted(cells, key=lambda c: (seconds(c) < long, seeds[c.seed], -seconds(c)))


def _group_of(cell: Cell) -> Hashable:
    """Cells of one group load the same weights and read features of the same images."""
    return cell.source, cell.task


def _rank(values: Iterable[Hashable]) -> dict[Hashable, int]:
    """When each value comes first."""
    return {value: rank for rank, value in enumerate(dict.fromkeys(values))}


def divide(cells: Sequence[Cell], seconds: Sequence[float], count: int) -> list[list[Cell]]:
    """Parts of a plan: each cell is in one, and each part takes about the same time.

    Cells of one source and task stay together, with all their seeds, so that every part can run
    seed by seed. The list of all cells is cut where the time is up: at most ``count - 1`` groups
    are split, and no part takes longer than an equal share and the longest cell.

    Args:
        seconds: what each cell takes, all above 0.
    """
    groups = _rank(map(_group_of, cells))
    order = sorted(range(len(cells)), key=lambda i: groups[_group_of(cells[i])])
    parts: list[list[Cell]] = [[] for _ in range(count)]
    total, before = sum(seconds), 0.0
    for i in order:
        middle = before + seconds[i] / 2
        parts[min(int(count * middle / total), count - 1)].append(cells[i])
        before += seconds[i]
    return parts
