"""Give the cells of a run to workers, count failures, and end cells that take too long.

The dispatcher does not know where its workers run. They are a crew: processes of this machine
(``local.py``) or actors of a Ray cluster (``on_ray.py``), which all run the loop of ``worker.py``.
A worker that dies, or is ended because its time is up, costs one attempt at one cell.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import Event, OnEvent
from compatbench.engine.plan_data import read_data
from compatbench.engine.worker import Order
from compatbench.errors import CompatbenchError, CompatbenchWarning

POLL_SECONDS = 0.1
HELD_SECONDS = 0.5  # until a cell that another run holds is tried again
LOADING_SECONDS = 300.0  # that a cell may take to load its first weights, beyond its own time
FALSE_STARTS = 5  # workers in a row that die before they are ready


@dataclass(frozen=True)
class Job:
    """The cells of a run in order, its folders, and how it computes."""

    cells: Sequence[Cell]
    store: Path
    cache: Path
    compute: Compute = field(default_factory=Compute)
    inode: int | None = None  # of the store's folder, which workers of this machine require


class Crew(Protocol):
    """Workers that can be replaced; each has a number.

    Attributes:
        deaths: how many workers may die of one cell before it counts as failed.
    """

    deaths: int

    def start(self) -> int | None:
        """Start another worker. Return its number if it begins to work at once.

        None means that it may have to wait for room.
        """

    def send(self, worker: int, order: Order) -> None:
        """Give a cell to a worker that is ready."""

    def listen(self, seconds: float, on_message: Callable[[int, str, Any], None]) -> None:
        """Wait for messages of workers, and pass them on."""

    def find_stopped(self) -> list[int]:
        """Return the workers whose process the system has stopped, as by SIGSTOP."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker at once; it sends no message afterwards."""

    def end(self) -> None:
        """End all workers."""


@dataclass
class RunningCell:
    """A cell that a worker runs, and when it has to end."""

    order: Order
    deadline: float
    is_loaded: bool = False


class Dispatcher:
    """Runs the cells of a job with a crew; a cell that fails does not stop the others."""

    def __init__(self, job: Job, crew: Crew, on_event: OnEvent) -> None:
        self._retry = job.compute.retry
        self._timeout = job.compute.timeout or float("inf")
        self._crew = crew
        self._on_event = on_event
        self._orders = deque(Order(cell) for cell in job.cells)
        self._tasks = dict[int, RunningCell]()  # by worker
        self._idle = list[int]()
        self._starting = dict[int, float]()  # workers, and when they have to be ready
        self._stopped = dict[int, float]()  # workers, and since when they are stopped
        self._failures = Counter[str]()  # by key
        self._false_starts = 0

    def run(self, workers: int) -> None:
        """Run all cells; raise a CompatbenchError if the input or a folder is broken."""
        try:
            for _ in range(min(workers, len(self._orders))):
                self._start()
            while self._orders or self._tasks:
                self._give_orders()
                self._crew.listen(POLL_SECONDS, self._handle)
                self._end_late_workers()
        finally:
            self._crew.end()

    def _start(self) -> None:
        worker = self._crew.start()
        if worker is not None:
            self._starting[worker] = time.monotonic() + self._timeout + LOADING_SECONDS

    def _end_late_workers(self) -> None:
        """End and replace the workers whose time is up."""
        if self._timeout == float("inf"):
            return
        now = time.monotonic()
        late = {}
        for worker, task in self._tasks.items():
            if now > task.deadline:
                late[worker] = "no end"
        for worker, deadline in self._starting.items():
            if now > deadline:
                late[worker] = "no start"
        # A stopped worker loads nothing, so it gets no time for that.
        stopped = self._crew.find_stopped()
        self._stopped = {worker: self._stopped.get(worker, now) for worker in stopped}
        for worker, since in self._stopped.items():
            if now > since + self._timeout:
                late.setdefault(worker, "its process was stopped, and did not go on")
        for worker, problem in late.items():
            self._crew.kill(worker)
            self._replace(worker, f"TimedOut: {problem} after {self._timeout:g} s", 0)

    def _give_orders(self) -> None:
        now = time.monotonic()
        waiting = deque[Order]()
        while self._idle and self._orders:
            order = self._orders.popleft()
            if order.not_before > now:
                waiting.append(order)
                continue
            worker = self._idle.pop(0)
            self._tasks[worker] = RunningCell(order, now + self._timeout + LOADING_SECONDS)
            self._crew.send(worker, order)
        self._orders.extend(waiting)

    def _handle(self, worker: int, kind: str, value: Any) -> None:
        if kind == "ready":
            self._idle.append(worker)
            self._starting.pop(worker, None)
            self._false_starts = 0
        elif kind == "warning":
            warnings.warn(value, CompatbenchWarning, stacklevel=2)
        elif kind == "broken":
            raise CompatbenchError(value)
        elif kind == "died":
            self._replace(worker, value, self._crew.deaths)
        elif worker not in self._tasks:
            raise CompatbenchError("a method has sent a message of no cell; nothing of it was used")
        elif kind in ("held", "ended"):
            self._end_task(self._tasks.pop(worker).order, kind, read_data(str, value))
        else:
            self._follow(self._tasks[worker], kind, value)

    def _follow(self, task: RunningCell, kind: str, value: Any) -> None:
        """Pass on a worker's message about its cell.

        Loading, encoding and waiting do not count for the timeout: each restarts the clock.
        """
        restarts = kind in ("encoding", "waits") or (kind == "loaded" and not task.is_loaded)
        if kind in ("encoding", "loaded"):
            task.is_loaded = True
        if restarts:
            loading = 0.0 if task.is_loaded else LOADING_SECONDS
            task.deadline = time.monotonic() + self._timeout + loading
        if kind == "encoding":
            encoded = read_data(tuple[int, int], value)
            self._on_event(Event("encoding", task.order.cell, encoded))
        elif kind in ("started", "measured"):
            self._on_event(Event(kind, task.order.cell))
        elif kind not in ("loaded", "waits"):
            raise CompatbenchError(
                "a method has changed what its process sends; nothing of it was used"
            )

    def _end_task(self, order: Order, kind: str, error: str) -> None:
        if kind == "held":
            if not order.was_held and not order.error:
                self._on_event(Event("waiting", order.cell))
            later = time.monotonic() + HELD_SECONDS
            self._orders.append(order._replace(not_before=later, was_held=True))
        elif not error or order.error or not self._try_again(order, error, self._retry):
            self._on_event(Event("finished", order.cell, error=error))

    def _try_again(self, order: Order, error: str, retries: int) -> bool:
        """Return True if a cell that failed gets another attempt."""
        self._failures[order.cell.key] += 1
        if self._failures[order.cell.key] > retries:
            return False
        self._orders.append(Order(order.cell))
        self._on_event(Event("retried", order.cell, error=error))
        return True

    def _replace(self, worker: int, error: str, deaths: int) -> None:
        """Replace a worker that has died; the cell that it had at work has failed."""
        task = self._tasks.pop(worker, None)
        self._starting.pop(worker, None)
        if worker in self._idle:
            self._idle.remove(worker)
        elif task is None:
            self._false_starts += 1
            if self._false_starts == FALSE_STARTS:
                raise CompatbenchError(f"workers cannot start: {error}")
        elif not self._try_again(task.order, error, max(self._retry, deaths)):
            self._orders.append(Order(task.order.cell, error=error))
        if self._orders:
            self._start()
