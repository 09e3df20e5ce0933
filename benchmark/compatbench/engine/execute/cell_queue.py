"""Which cell a worker gets next: seed by seed, and cells that share features on one worker.

Knows nothing of Ray, of time or of machines, so that the simulation of ``benchmark/scale``
schedules with the same code as a run does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Placed(Protocol):
    """What decides where a cell runs best; ``Cell`` has it."""

    @property
    def source(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def shots(self) -> int: ...
    @property
    def seed(self) -> int: ...


CellT = TypeVar("CellT", bound=Placed)

LONG = 2  # cells that take half of the time that is left to each worker, or more


def group_of(cell: Placed) -> Hashable:
    """Cells of one group load the same weights and read features of the same images."""
    return cell.source, cell.task


@dataclass
class _Group(Generic[CellT]):
    """Waiting cells of one seed that are best run by one worker, and their seconds together."""

    cells: deque[CellT] = field(default_factory=deque)
    seconds: float = 0.0


class CellQueue(Generic[CellT]):
    """The cells that wait, handed out one by one to workers that come and go.

    Cells of a seed are started before those of the next, in the order in which the seeds first
    come. A worker stays with its group; when that is empty, it takes the longest one that no
    worker has, or else helps with the longest. Two kinds of cells go before all others, of any
    seed: those that were given back, and long ones, which would end last if they began late.

    Args:
        cells: in the order in which one worker runs those of a group.
        seconds: that a cell takes, or anything in proportion; more than 0.
        group: cells with the same value form a group.
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
        self._seeds: dict[int, dict[Hashable, _Group[CellT]]] = {}
        for cell in cells:
            waiting = self._seeds.setdefault(cell.seed, {}).setdefault(group(cell), _Group())
            waiting.cells.append(cell)
            waiting.seconds += seconds(cell)

    def __len__(self) -> int:
        """Cells that wait."""
        return len(self._returned) + sum(len(group.cells) for _, _, group in self._groups())

    def take(
        self, worker: Hashable, may_run: Callable[[CellT], bool] = lambda _: True
    ) -> CellT | None:
        """The worker's next cell; None if none waits, or none that it may run.

        Args:
            may_run: asked of cells that were given back.
        """
        mine = self._group_of_worker.setdefault(worker, None)
        for cell in self._returned:
            if may_run(cell):
                self._returned.remove(cell)
                return cell
        if not self._seeds:
            return None
        seed, groups = next(iter(self._seeds.items()))
        if mine not in groups:
            taken = set(self._group_of_worker.values())
            mine = max(groups, key=lambda name: (name not in taken, groups[name].seconds))
        longest, name, group = max(
            self._groups(), key=lambda place: self._seconds(place[2].cells[0])
        )
        if self._is_long(group.cells[0]):
            seed, mine = longest, name
        if self._group_of_worker[worker] not in groups:
            self._group_of_worker[worker] = mine
        return self._pop(seed, mine)

    def give_back(self, cell: CellT) -> None:
        """Lets a cell wait that was taken and has no result: it is the next to be run."""
        self._returned.append(cell)

    def leave(self, worker: Hashable) -> None:
        """Forgets a worker that is gone."""
        self._group_of_worker.pop(worker, None)

    def _groups(self) -> Iterator[tuple[int, Hashable, _Group[CellT]]]:
        for seed, groups in self._seeds.items():
            for name, group in groups.items():
                yield seed, name, group

    def _is_long(self, cell: CellT) -> bool:
        """Whether a cell takes a fair part of the time that is left."""
        left = sum(group.seconds for _, _, group in self._groups())
        return LONG * len(self._group_of_worker) * self._seconds(cell) >= left

    def _pop(self, seed: int, name: Hashable) -> CellT:
        group = self._seeds[seed][name]
        cell = group.cells.popleft()
        group.seconds -= self._seconds(cell)
        if not group.cells:
            del self._seeds[seed][name]
        if not self._seeds[seed]:
            del self._seeds[seed]
        return cell
