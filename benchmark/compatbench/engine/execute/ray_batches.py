"""Which cell a worker gets next: cells that share weights and features stay on one worker.

Knows nothing of Ray, of time or of machines, so that the simulation of ``benchmark/scale``
schedules with the same code as a run does.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import log
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

Group = tuple[str, str]

ABOUT_THE_SAME = 4.0  # times
LONG = 2  # cells that take half of the time that is left, or more


def group_of(cell: Placed) -> Group:
    """Cells of one group load the same weights and read features of the same images."""
    return cell.source, cell.task


def make_batches(
    cells: Iterable[CellT], cost: Callable[[CellT], float]
) -> dict[Group, list[CellT]]:
    """The cells of every group, in the order in which one worker runs them.

    The costly come first, so that what is left at the end is small. Among cells of about the same
    cost, draws stay together, as their features do in a worker's memory.
    """
    groups: dict[Group, list[CellT]] = defaultdict(list)
    for cell in cells:
        groups[group_of(cell)].append(cell)

    def rank(cell: CellT) -> tuple[int, int, int]:
        return -round(log(cost(cell), ABOUT_THE_SAME)), -cell.shots, cell.seed

    return {group: sorted(batch, key=rank) for group, batch in groups.items()}


@dataclass(eq=False)
class _Batch(Generic[CellT]):
    """Cells that wait, and what they cost together."""

    cells: deque[CellT]
    cost: float


class Batches(Generic[CellT]):
    """The cells that wait, handed out one by one to workers that come and go.

    A worker keeps to its batch. One that has none takes the costliest that nobody has, or else the
    first half of the costliest batch of another worker, which has just begun a cell. Two kinds of
    cells go before all others, whoever has their batch: those that were given back, and the long
    ones, that could not be caught up with if they began late.

    Args:
        cost: seconds that a cell takes, or anything in proportion; more than 0.
    """

    def __init__(self, cells: Iterable[CellT], cost: Callable[[CellT], float]) -> None:
        self._cost = cost
        self._returned: deque[CellT] = deque()
        self._free = [self._batch(batch) for batch in make_batches(cells, cost).values()]
        self._taken: dict[Hashable, _Batch[CellT]] = {}
        self._waiting = sum(batch.cost for batch in self._free)
        self._workers: set[Hashable] = set()

    def __len__(self) -> int:
        """Cells that wait."""
        return len(self._returned) + sum(len(batch.cells) for batch in self._batches())

    def take(
        self, worker: Hashable, may_run: Callable[[CellT], bool] = lambda _: True
    ) -> CellT | None:
        """The worker's next cell; None if none waits, or none that it may run.

        Args:
            may_run: asked of cells that were given back.
        """
        self._workers.add(worker)
        for cell in self._returned:
            if may_run(cell):
                self._returned.remove(cell)
                return cell
        mine = self._taken.get(worker)
        batch = mine if mine is not None and mine.cells else None
        if batch is None or not self._is_long(batch.cells[0]):
            longest = max(self._batches(), key=self._first_cost, default=None)
            if longest is not None and longest.cells and self._is_long(longest.cells[0]):
                if batch is None and longest in self._free:
                    self._adopt(worker, longest)
                return self._pop(longest)
        if batch is None:
            batch = self._find_batch()
            if batch is None:
                return None
            self._adopt(worker, batch)
        return self._pop(batch)

    def give_back(self, cell: CellT) -> None:
        """A cell's worker was lost: it is the next to be run."""
        self._returned.append(cell)

    def leave(self, worker: Hashable) -> None:
        """A worker is gone: its batch is free."""
        self._workers.discard(worker)
        batch = self._taken.pop(worker, None)
        if batch is not None and batch.cells:
            self._free.append(batch)

    def _batches(self) -> Iterator[_Batch[CellT]]:
        yield from self._free
        yield from self._taken.values()

    def _first_cost(self, batch: _Batch[CellT]) -> float:
        return self._cost(batch.cells[0]) if batch.cells else 0.0

    def _is_long(self, cell: CellT) -> bool:
        """Whether a cell takes a fair part of the time that is left."""
        return LONG * len(self._workers) * self._cost(cell) >= self._waiting

    def _pop(self, batch: _Batch[CellT]) -> CellT:
        cell = batch.cells.popleft()
        batch.cost -= self._cost(cell)
        self._waiting -= self._cost(cell)
        return cell

    def _adopt(self, worker: Hashable, batch: _Batch[CellT]) -> None:
        self._taken[worker] = batch
        self._free = [other for other in self._free if other is not batch and other.cells]

    def _find_batch(self) -> _Batch[CellT] | None:
        if free := [batch for batch in self._free if batch.cells]:
            return max(free, key=lambda batch: batch.cost)
        victims = [batch for batch in self._taken.values() if batch.cells]
        return self._split(max(victims, key=lambda batch: batch.cost)) if victims else None

    def _split(self, batch: _Batch[CellT]) -> _Batch[CellT]:
        """Takes cells from the front of a batch, one at least, and at most half of its cost."""
        stolen: deque[CellT] = deque()
        cost = 0.0
        while batch.cells:
            more = cost + self._cost(batch.cells[0])
            if stolen and 2 * more > batch.cost:
                break
            stolen.append(batch.cells.popleft())
            cost = more
        batch.cost -= cost
        return _Batch(stolen, cost)

    def _batch(self, cells: Sequence[CellT]) -> _Batch[CellT]:
        return _Batch(deque(cells), sum(map(self._cost, cells)))
