"""Which cell a worker gets next: cells that share weights and features stay on one worker.

Knows nothing of Ray, of time or of machines, so that the simulation of ``benchmark/scale``
schedules with the same code as a run does.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
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


def group_of(cell: Placed) -> Group:
    """Cells of one group load the same weights and read features of the same images."""
    return cell.source, cell.task


def make_batches(
    cells: Iterable[CellT], cost: Callable[[CellT], float]
) -> dict[Group, list[CellT]]:
    """The cells of every group, in the order in which one worker runs them.

    Draws stay together, as their features do in a worker's memory. The costly ones come first,
    and within each the costly cells, so that what is left at the end is small.
    """
    groups: dict[Group, dict[tuple[int, int], list[CellT]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        groups[group_of(cell)][cell.shots, cell.seed].append(cell)
    return {
        group: [
            cell
            for draw in sorted(draws.values(), key=lambda draw: -sum(map(cost, draw)))
            for cell in sorted(draw, key=lambda cell: -cost(cell))
        ]
        for group, draws in groups.items()
    }


@dataclass
class _Batch(Generic[CellT]):
    """Cells that wait, and what they cost together."""

    cells: deque[CellT]
    cost: float


class Batches(Generic[CellT]):
    """The cells that wait, handed out one by one to workers that come and go.

    A worker keeps to its batch. One that has none takes, of these, the first that there is:
    cells that were given back, the costliest batch that nobody has, the second half of the
    costliest batch of another worker.

    Args:
        cost: seconds that a cell takes, or anything in proportion; more than 0.
    """

    def __init__(self, cells: Sequence[CellT], cost: Callable[[CellT], float]) -> None:
        self._cost = cost
        self._returned: deque[CellT] = deque()
        self._free = [self._batch(batch) for batch in make_batches(cells, cost).values()]
        self._taken: dict[Hashable, _Batch[CellT]] = {}

    def __len__(self) -> int:
        """Cells that wait."""
        batches = [*self._free, *self._taken.values()]
        return len(self._returned) + sum(len(batch.cells) for batch in batches)

    def take(
        self, worker: Hashable, may_run: Callable[[CellT], bool] = lambda _: True
    ) -> CellT | None:
        """The worker's next cell; None if none waits, or none that it may run.

        Args:
            may_run: asked of cells that were given back.
        """
        for cell in self._returned:
            if may_run(cell):
                self._returned.remove(cell)
                return cell
        batch = self._taken.get(worker)
        if batch is None or not batch.cells:
            batch = self._find_batch()
            if batch is None:
                return None
            self._taken[worker] = batch
        cell = batch.cells.popleft()
        batch.cost -= self._cost(cell)
        return cell

    def give_back(self, cell: CellT) -> None:
        """A cell's worker was lost: it is the next to be run."""
        self._returned.append(cell)

    def leave(self, worker: Hashable) -> None:
        """A worker is gone: its batch is free."""
        batch = self._taken.pop(worker, None)
        if batch is not None and batch.cells:
            self._free.append(batch)

    def _find_batch(self) -> _Batch[CellT] | None:
        if self._free:
            batch = max(self._free, key=lambda batch: batch.cost)
            self._free.remove(batch)
            return batch
        victims = [batch for batch in self._taken.values() if batch.cells]
        return self._split(max(victims, key=lambda batch: batch.cost)) if victims else None

    def _split(self, batch: _Batch[CellT]) -> _Batch[CellT]:
        """Takes cells from the end of a batch, one at least, and at most half of its cost."""
        stolen: deque[CellT] = deque()
        cost = 0.0
        while batch.cells:
            more = cost + self._cost(batch.cells[-1])
            if stolen and 2 * more > batch.cost:
                break
            stolen.appendleft(batch.cells.pop())
            cost = more
        batch.cost -= cost
        return _Batch(stolen, cost)

    def _batch(self, cells: Sequence[CellT]) -> _Batch[CellT]:
        return _Batch(deque(cells), sum(map(self._cost, cells)))
