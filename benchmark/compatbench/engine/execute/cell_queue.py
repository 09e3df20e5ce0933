"""Which cell a worker gets next: seed by seed, and cells that share features on one worker.

Knows nothing of Ray, of time or of machines, so that the simulation of ``benchmark/scale``
schedules with the same code as a run does.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from math import log
from typing import Any, Generic, TypeVar

from compatbench.engine.cell import Cell

# A ``Cell``, or what a simulation has for one: with a seed, source, task and shots.
CellT = TypeVar("CellT", bound=Any)

ABOUT_THE_SAME = 4.0  # times
LONG = 2  # cells that take half of the time that is left to each worker, or more


def order_cells(cells: Iterable[Cell], seconds: Callable[[Cell], float]) -> list[Cell]:
    """Cells by seed first, then cheap methods before costly ones, then by source and task.

    A ranking needs every method on every task, and one seed of each. So all cells of the first
    seed come first: the whole ranking stands early, and further seeds make it sharper. Within a
    seed the cheap methods, which most rows belong to, are there at once. Methods of about the
    same cost are run task by task, so that features are shared while they are in memory.
    The order that is given decides which seed and which task come first.
    """
    cells = list(cells)
    spent: dict[str, list[float]] = defaultdict(list)
    for cell in cells:
        spent[cell.name].append(seconds(cell))
    costs = {name: _cost_class(sum(found) / len(found)) for name, found in spent.items()}
    seeds, groups = _rank(cell.seed for cell in cells), _rank(map(group_of, cells))
    return sorted(cells, key=lambda c: (seeds[c.seed], costs[c.name], groups[group_of(c)]))


def longest_first(cells: Iterable[CellT], seconds: Callable[[CellT], float]) -> list[CellT]:
    """Cells by seed first, then costly ones before cheap ones.

    This is for many workers at once, who finish a seed soonest if its long cells begin first.
    Among cells of about the same cost, draws stay together, as their features do in memory.
    """
    cells = list(cells)
    seeds = _rank(cell.seed for cell in cells)
    return sorted(cells, key=lambda c: (seeds[c.seed], -_cost_class(seconds(c)), -c.shots))


def group_of(cell: Any) -> Hashable:
    """Cells of one group load the same weights and read features of the same images."""
    return cell.source, cell.task


def _rank(values: Iterable[Hashable]) -> dict[Hashable, int]:
    """When each value comes first."""
    return {value: rank for rank, value in enumerate(dict.fromkeys(values))}


def _cost_class(seconds: float) -> int:
    return round(log(seconds, ABOUT_THE_SAME))


@dataclass
class _Group(Generic[CellT]):
    """Waiting cells of one seed that are best run by one worker, and their seconds together."""

    cells: deque[CellT] = field(default_factory=deque)
    seconds: float = 0.0
    next_seconds: float = 0.0  # of the first cell


class CellQueue(Generic[CellT]):
    """The cells that wait, handed out one by one to workers that come and go.

    Cells of a seed are started before those of the next, in the order in which the seeds first
    come. A worker stays with its group; when that is empty, it takes the longest one that no
    worker has, or else helps with the longest. Two kinds of cells go before all others, of any
    seed: those that were given back, and long ones, which would end last if they began late.
    One worker runs cells with the same ``group`` in the order in which they are given; the
    seconds of a cell may be anything in proportion, above 0.
    """

    def __init__(
        self,
        cells: Iterable[CellT],
        seconds: Callable[[CellT], float],
        group: Callable[[CellT], Hashable] = group_of,
    ) -> None:
        self._seconds = seconds
        self._returned: deque[CellT] = deque()
        self._group_of_worker: dict[Hashable, Hashable] = {}
        # By seed and group; those of the first seed are first.
        self._groups: dict[tuple[int, Hashable], _Group[CellT]] = {}
        for cell in cells:
            waiting = self._groups.setdefault((cell.seed, group(cell)), _Group())
            if not waiting.cells:
                waiting.next_seconds = seconds(cell)
            waiting.cells.append(cell)
            waiting.seconds += seconds(cell)

    def __len__(self) -> int:
        """Cells that wait."""
        return len(self._returned) + sum(len(group.cells) for group in self._groups.values())

    def take(self, worker: Hashable) -> CellT | None:
        """The worker's next cell; None if none waits."""
        mine = self._group_of_worker.setdefault(worker, None)
        if self._returned:
            return self._returned.popleft()
        if not self._groups:
            return None
        first, _ = next(iter(self._groups))
        stays = (first, mine) in self._groups
        if not stays:
            groups = {name: each for (seed, name), each in self._groups.items() if seed == first}
            taken = set(self._group_of_worker.values())
            mine = max(groups, key=lambda name: (name not in taken, groups[name].seconds))
        place = first, mine
        waiting = self._groups.values()
        most = max([each.next_seconds for each in waiting])
        if LONG * len(self._group_of_worker) * most >= sum([each.seconds for each in waiting]):
            place = next(p for p, each in self._groups.items() if each.next_seconds == most)
        if not stays:
            self._group_of_worker[worker] = place[1]
        group = self._groups[place]
        cell = group.cells.popleft()
        group.seconds -= group.next_seconds
        if group.cells:
            group.next_seconds = self._seconds(group.cells[0])
        else:
            del self._groups[place]
        return cell

    def give_back(self, cell: CellT) -> None:
        """Lets a cell wait that was taken and has no result: it is the next to be run."""
        self._returned.append(cell)

    def leave(self, worker: Hashable) -> None:
        """Forgets a worker that is gone."""
        self._group_of_worker.pop(worker, None)
