"""Hands cells to workers and follows each cell to its end; the same for processes and for Ray."""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from compatbench.engine.cell import Cell, FailureKind
from compatbench.engine.execute.cell_queue import CellQueue
from compatbench.engine.execute.compute import Event, OnEvent, Settings
from compatbench.engine.failures import (
    TIMED_OUT,
    Failure,
    describe_exception,
    kind_of,
    note_failure,
)
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker, run_cell
from compatbench.errors import CompatbenchError, CompatbenchWarning

HELD_SECONDS = 0.5  # until a cell that another process runs is tried again
RELEASE_SECONDS = 10.0  # that the claim of a worker that was ended may take to become free
# Seconds that a worker may take to load its libraries, beyond a cell's own time.
LOADING_SECONDS = 300.0

# A string is a warning of the worker, a CompatbenchError ends the run, and a Failure the worker.
Message = Event | str | CompatbenchError | Failure


@dataclass(eq=False)
class WorkerHandle:
    """A worker, as the scheduler knows it."""

    ready: bool = True  # to take a cell
    cell: Cell | None = None  # that it runs
    # When its attempt is ended, on the monotonic clock; None is never.
    deadline: float | None = None


HandleT = TypeVar("HandleT", bound=WorkerHandle)


class Scheduler(ABC, Generic[HandleT]):
    """Runs the cells of a queue on workers, and reports what happens.

    Where workers live is a subclass's; ``workers`` are those that are started and not ended.
    """

    def __init__(self, queue: CellQueue[Cell], settings: Settings, on_event: OnEvent) -> None:
        self.workers: list[HandleT] = []
        self.settings = settings
        self._queue = queue
        self._on_event = on_event
        self._store = RunStore(settings.store)
        # Cells that other processes run, and when to try them again.
        self._held: deque[tuple[float, Cell]] = deque()
        self._retries: Counter[tuple[str, FailureKind]] = Counter()

    @abstractmethod
    def count_room(self) -> int:
        """How many workers there may be now."""

    @abstractmethod
    def start_worker(self) -> HandleT: ...

    @abstractmethod
    def start_cell(self, worker: HandleT, cell: Cell) -> None:
        """Hands a cell to a ready worker."""

    @abstractmethod
    def receive(self, seconds: float | None) -> Iterator[tuple[HandleT, Message]]:
        """What workers report; waits for it so long at most, or without end if None."""

    @abstractmethod
    def end_worker(self, worker: HandleT) -> None: ...

    def last_frames(self, worker: HandleT) -> tuple[str, ...]:
        """The frames that a worker is in, innermost last, if they can be read."""
        return ()

    def run(self) -> None:
        """Runs all cells, and ends the workers."""
        try:
            while len(self._queue) or self._held or self.running():
                while self._held and self._held[0][0] <= time.monotonic():
                    self._queue.give_back(self._held.popleft()[1])
                wanted = min(self.count_room(), len(self.running()) + len(self._queue))
                while len(self.workers) < wanted:
                    self.workers.append(self.start_worker())
                self._start_cells()
                for worker, message in self.receive(self._seconds_until_due()):
                    self._handle(worker, message)
                for worker in self.running():
                    if worker.deadline is not None and time.monotonic() > worker.deadline:
                        error = f"{TIMED_OUT}: no end after {self.settings.compute.timeout:g} s"
                        self._fail(worker, Failure(error, self.last_frames(worker)))
        finally:
            # A cell that is still running is lost, and run by the next run.
            while self.workers:
                self.end_worker(self.workers.pop())

    def running(self) -> list[HandleT]:
        """The workers that have a cell."""
        return [worker for worker in self.workers if worker.cell is not None]

    def _start_cells(self) -> None:
        for worker in self.workers:
            if worker.ready and worker.cell is None:
                worker.cell = self._queue.take(worker)
                if worker.cell is not None:
                    self._set_deadline(worker, LOADING_SECONDS)
                    self.start_cell(worker, worker.cell)

    def _set_deadline(self, worker: HandleT, more: float = 0.0) -> None:
        if self.settings.compute.timeout is not None:
            worker.deadline = time.monotonic() + self.settings.compute.timeout + more

    def _seconds_until_due(self) -> float | None:
        """Seconds until a deadline, or until a held cell is tried again; None without any."""
        due = [w.deadline for w in self.running() if w.deadline is not None]
        due += [when for when, _ in list(self._held)[:1]]
        return max(min(due) - time.monotonic(), 0.0) + 0.01 if due else None

    def _handle(self, worker: HandleT, message: Message) -> None:
        if isinstance(message, CompatbenchError):
            raise message
        if isinstance(message, str):
            warnings.warn(message, CompatbenchWarning, stacklevel=2)
        elif isinstance(message, Failure):
            self._fail(worker, message)
        elif message.ends_attempt:
            worker.cell = worker.deadline = None
            self._end_attempt(message)
        else:
            if message.kind in ("started", "encoding"):
                self._set_deadline(worker)
            self._on_event(message)

    def _fail(self, worker: HandleT, failure: Failure) -> None:
        """Ends a worker and stores its cell's failure, unless the cell is done."""
        cell = worker.cell
        assert cell is not None
        self.workers.remove(worker)
        self.end_worker(worker)
        self._queue.leave(worker)
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
            if self._retries[event.cell.key, kind] < self.settings.compute.retry.get(kind, 0):
                self._retries[event.cell.key, kind] += 1
                self._queue.give_back(event.cell)
                event = Event("retried", event.cell, error=event.error)
        self._on_event(event)


def send_warnings(send: Callable[[str], object]) -> None:
    """Sends our warnings in this process on, as text."""
    warnings.showwarning = lambda message, category, *_: (
        send(str(message)) if category is CompatbenchWarning else None
    )


def report_cell(worker: Worker, cell: Cell, send: Callable[[Message], object]) -> None:
    """Runs a cell in a worker's process, and sends what happens to the scheduler."""
    send_warnings(send)
    try:
        last: Message = run_cell(worker, cell, send)
    except CompatbenchError as error:
        last = error
    except Exception as error:
        last = describe_exception(error)
    send(last)
