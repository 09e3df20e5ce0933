"""Hands cells to workers and follows each cell to its end; the same for processes and for Ray."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from compatbench.engine.cell import Cell, FailureKind
from compatbench.engine.execute.cell_queue import CellQueue
from compatbench.engine.execute.settings import Event, OnEvent, Settings
from compatbench.engine.failures import TIMED_OUT, Failure, kind_of, note_failure
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning

HELD_SECONDS = 0.5  # until a cell that another process runs is tried again
RELEASE_SECONDS = 10.0  # that the claim of a worker that was ended may take to become free
# Seconds that a worker may take to load its libraries, beyond a cell's own time.
LOADING_SECONDS = 300.0


@dataclass(eq=False)
class WorkerHandle:
    """A worker, as the scheduler knows it.

    Attributes:
        ready: whether it can take a cell.
        cell: that it runs, if any.
        deadline: when its attempt is ended, on the monotonic clock; None is never.
    """

    ready: bool = True
    cell: Cell | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class WorkerLost:
    """A worker is gone, and its cell has no result.

    Attributes:
        rerun: the failure is not the cell's, which is run again without counting as a retry.
    """

    failure: Failure
    rerun: bool = False


# A string is a warning of the worker; a CompatbenchError ends the run.
Message = Event | str | CompatbenchError | WorkerLost
HandleT = TypeVar("HandleT", bound=WorkerHandle)


class Backend(ABC, Generic[HandleT]):
    """Where workers live; ``workers`` are those that are started and not removed."""

    def __init__(self) -> None:
        self.workers: list[HandleT] = []

    @abstractmethod
    def add_workers(self, waiting: int) -> None:
        """Starts workers where there is room, for so many waiting cells."""

    @abstractmethod
    def start_cell(self, worker: HandleT, cell: Cell) -> None:
        """Hands a cell to a ready worker."""

    @abstractmethod
    def receive(self, seconds: float | None) -> Iterator[tuple[HandleT, Message]]:
        """What workers report; waits for it so long at most, or without end if None."""

    @abstractmethod
    def remove(self, worker: HandleT) -> None:
        """Ends a worker."""

    def last_frames(self, worker: HandleT) -> tuple[str, ...]:
        """The frames that a worker is in, innermost last, if they can be read."""
        return ()

    def may_run(self, worker: HandleT, cell: Cell) -> bool:
        """Whether a worker may run a cell that was returned."""
        return True


class Scheduler(Generic[HandleT]):
    """Runs the cells of a queue on the workers of a backend, and reports what happens."""

    def __init__(
        self,
        queue: CellQueue[Cell],
        backend: Backend[HandleT],
        settings: Settings,
        on_event: OnEvent,
    ) -> None:
        self._queue = queue
        self._backend = backend
        self._settings = settings
        self._on_event = on_event
        self._store = RunStore(settings.store)
        # Cells that other processes run, and when to try them again.
        self._held: deque[tuple[float, Cell]] = deque()
        self._retries: Counter[tuple[str, FailureKind]] = Counter()

    def run(self) -> None:
        """Runs all cells, and ends the workers."""
        try:
            while len(self._queue) or self._held or self._running():
                while self._held and self._held[0][0] <= time.monotonic():
                    self._queue.give_back(self._held.popleft()[1])
                self._backend.add_workers(len(self._queue))
                self._start_cells()
                for worker, message in self._backend.receive(self._seconds_until_due()):
                    self._handle(worker, message)
                for worker in self._running():
                    if worker.deadline is not None and time.monotonic() > worker.deadline:
                        error = f"{TIMED_OUT}: no end after {self._settings.timeout:g} s"
                        self._fail(worker, Failure(error, self._backend.last_frames(worker)))
        finally:
            # A cell that is still running is lost, and run by the next run.
            for worker in list(self._backend.workers):
                self._backend.remove(worker)

    def _running(self) -> list[HandleT]:
        return [worker for worker in self._backend.workers if worker.cell is not None]

    def _start_cells(self) -> None:
        for worker in self._backend.workers:
            if worker.ready and worker.cell is None:
                cell = self._queue.take(worker, lambda c, w=worker: self._backend.may_run(w, c))
                if cell is not None:
                    worker.cell = cell
                    self._set_deadline(worker, LOADING_SECONDS)
                    self._backend.start_cell(worker, cell)

    def _set_deadline(self, worker: HandleT, more: float = 0.0) -> None:
        if self._settings.timeout is not None:
            worker.deadline = time.monotonic() + self._settings.timeout + more

    def _seconds_until_due(self) -> float | None:
        """Seconds until a deadline, or until a held cell is tried again; None without any."""
        due = [w.deadline for w in self._running() if w.deadline is not None]
        due += [when for when, _ in list(self._held)[:1]]
        return max(min(due) - time.monotonic(), 0.0) + 0.01 if due else None

    def _handle(self, worker: HandleT, message: Message) -> None:
        if isinstance(message, CompatbenchError):
            raise message
        if isinstance(message, str):
            warnings.warn(message, CompatbenchWarning, stacklevel=2)
        elif isinstance(message, WorkerLost):
            self._fail(worker, message.failure, message.rerun)
        elif message.ends_attempt:
            worker.cell = worker.deadline = None
            self._end_attempt(message)
        else:
            if message.kind in ("started", "encoding"):
                self._set_deadline(worker)
            self._on_event(message)

    def _fail(self, worker: HandleT, failure: Failure, rerun: bool = False) -> None:
        """Removes a worker and stores its cell's failure, unless the cell is done or run again."""
        cell = worker.cell
        assert cell is not None
        self._backend.remove(worker)
        self._queue.leave(worker)
        if rerun:
            self._rerun(cell, failure.error)
            return
        give_up = time.monotonic() + RELEASE_SECONDS
        while True:
            with self._store.claim(cell.key) as held:
                if held:
                    record = note_failure(self._store, cell, failure)
                    error = failure.error if record.errors else ""
                    self._end_attempt(Event("finished", cell, error=error))
                    return
            if time.monotonic() >= give_up:  # another process has claimed it
                self._end_attempt(Event("waiting", cell))
                return
            time.sleep(0.1)

    def _end_attempt(self, event: Event) -> None:
        """Decides what follows an attempt: nothing, another one, or waiting for the holder."""
        if event.kind == "waiting":
            self._held.append((time.monotonic() + HELD_SECONDS, event.cell))
        elif event.error:
            kind = kind_of(event.error)
            if self._retries[event.cell.key, kind] < self._settings.retry.get(kind, 0):
                self._retries[event.cell.key, kind] += 1
                self._rerun(event.cell, event.error)
                return
        self._on_event(event)

    def _rerun(self, cell: Cell, why: str) -> None:
        self._queue.give_back(cell)
        self._on_event(Event("retried", cell, error=why))
