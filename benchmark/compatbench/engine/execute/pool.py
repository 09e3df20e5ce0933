"""Worker processes, each with at most one cell; one that dies or hangs is replaced."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from compatbench.engine.cell import Cell, FailureKind
from compatbench.engine.execute.executors import POLL, Event, Settings
from compatbench.engine.execute.process import ask_for_frames, read_frames, serve
from compatbench.engine.failures import (
    Failure,
    count_oom_kills,
    describe_death,
    describe_timeout,
    kind_of,
    note_failure,
)
from compatbench.engine.locks import claim
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning

# Seconds that a worker may take to load its libraries, beyond a cell's own time.
STARTING = 300.0
PATIENCE = 10.0  # seconds that a process may take to end when it is told to


@dataclass
class _Worker:
    """A worker process.

    Attributes:
        frames: the file of its last frames.
        cell: at work, if any.
        deadline: when that is ended, on the monotonic clock.
        oom_kills: the system's count when the cell was begun.
    """

    process: BaseProcess
    connection: Connection
    frames: Path
    cell: Cell | None = None
    deadline: float | None = None
    oom_kills: int = 0


class Pool:
    """Runs cells in worker processes.

    Args:
        size: processes at most; they are started when there are cells for them.
    """

    def __init__(self, settings: Settings, size: int) -> None:
        self._settings = settings
        self._size = size
        self._store = RunStore(settings.store)
        self._context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="compatbench-")
        self._numbers = count(1)
        self._workers: list[_Worker] = []
        self._waiting: deque[Cell] = deque()
        # Cells that other processes run, and when to look at them again.
        self._elsewhere: deque[tuple[float, Cell]] = deque()
        self._retried: Counter[tuple[str, FailureKind]] = Counter()

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        """Runs cells and tells what happens, until all are finished.

        Raises:
            CompatbenchError: as ``run_cells``.
        """
        self._waiting.extend(cells)
        while self._waiting or self._elsewhere or self._at_work():
            self._look_again()
            self._hand_out()
            at_work = {worker.connection: worker for worker in self._at_work()}
            for ready in wait(list(at_work), self._patience()):
                assert isinstance(ready, Connection)
                yield from self._hear(at_work[ready])
            now = time.monotonic()
            for worker in self._at_work():
                if worker.deadline is not None and now > worker.deadline:
                    yield from self._end(worker)

    def close(self) -> None:
        """Ends all workers; a cell at work is lost, and run again by the same command."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            _join(worker)
        self._workers.clear()
        self._folder.cleanup()

    def _at_work(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.cell is not None]

    def _look_again(self) -> None:
        now = time.monotonic()
        while self._elsewhere and self._elsewhere[0][0] <= now:
            self._waiting.append(self._elsewhere.popleft()[1])

    def _hand_out(self) -> None:
        while self._waiting:
            worker = next((w for w in self._workers if w.cell is None), None)
            if worker is None:
                if len(self._workers) == self._size:
                    return
                worker = self._start()
            cell = self._waiting[0]
            try:
                worker.connection.send(cell)
            except OSError:  # it has died with nothing to do
                self._bury(worker)
                continue
            self._waiting.popleft()
            worker.cell = cell
            worker.oom_kills = count_oom_kills()
            self._set_deadline(worker, STARTING)

    def _set_deadline(self, worker: _Worker, more: float = 0.0) -> None:
        if self._settings.timeout is not None:
            worker.deadline = time.monotonic() + self._settings.timeout + more

    def _patience(self) -> float | None:
        """Seconds until something is due; None if nothing is but news from workers."""
        due = [w.deadline for w in self._at_work() if w.deadline is not None]
        due += [self._elsewhere[0][0]] if self._elsewhere else []
        return max(min(due) - time.monotonic(), 0.0) + 0.01 if due else None

    def _hear(self, worker: _Worker) -> Iterator[Event]:
        try:
            message = worker.connection.recv()
        except (EOFError, OSError):
            yield from self._lose(worker)
            return
        if isinstance(message, CompatbenchError):
            raise message
        if isinstance(message, str):
            warnings.warn(message, CompatbenchWarning, stacklevel=2)
            return
        event: Event = message
        if event.kind in ("started", "encoding"):
            self._set_deadline(worker)
        elif event.kind == "waiting":
            worker.cell = None
            self._elsewhere.append((time.monotonic() + POLL, event.cell))
        elif event.kind == "finished":
            worker.cell = None
            event = self._settle(event)
        yield event

    def _settle(self, event: Event) -> Event:
        """The end of an attempt, which is that of the cell unless it is tried again."""
        if not event.error:
            return event
        tried = event.cell.key, kind_of(event.error)
        if self._retried[tried] >= self._settings.retry.get(tried[1], 0):
            return event
        self._retried[tried] += 1
        self._waiting.append(event.cell)
        return Event("retried", event.cell, error=event.error)

    def _end(self, worker: _Worker) -> Iterator[Event]:
        """Ends a worker whose cell takes too long."""
        assert worker.process.pid is not None
        assert self._settings.timeout is not None
        trace = ask_for_frames(worker.process.pid, worker.frames)
        worker.process.kill()
        yield from self._fail(worker, describe_timeout(self._settings.timeout, trace))

    def _lose(self, worker: _Worker) -> Iterator[Event]:
        """A worker died."""
        worker.process.join()
        yield from self._fail(
            worker,
            describe_death(
                worker.process.exitcode or 0,
                count_oom_kills() > worker.oom_kills,
                read_frames(worker.frames),
            ),
        )

    def _fail(self, worker: _Worker, failure: Failure) -> Iterator[Event]:
        """The worker's cell failed with it: that becomes a record, unless the cell is done."""
        cell = worker.cell
        assert cell is not None
        self._bury(worker)
        with claim(self._store, cell.key) as mine:
            if not mine.held:  # another process has taken it up already
                self._elsewhere.append((time.monotonic() + POLL, cell))
                yield Event("waiting", cell)
                return
            noted = note_failure(self._store, cell, failure)
        yield self._settle(Event("finished", cell, error=failure.error if noted else ""))

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        frames = Path(self._folder.name) / f"{next(self._numbers)}.frames"
        process = self._context.Process(
            target=serve,
            args=(theirs, self._settings, frames),
            daemon=True,
            name="compatbench-worker",
        )
        # BLAS reads its thread count when it is loaded, before any of our code runs.
        with _environment("OMP_NUM_THREADS", str(self._settings.threads)), _no_interrupt():
            process.start()
        theirs.close()
        worker = _Worker(process, ours, frames)
        self._workers.append(worker)
        return worker

    def _bury(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        _join(worker)


def _join(worker: _Worker) -> None:
    worker.process.join(PATIENCE)
    if worker.process.is_alive():
        worker.process.kill()
        worker.process.join(PATIENCE)
    worker.connection.close()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable for the time a child process is started."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Starts children deaf to Ctrl-C, which the terminal sends to all: the parent decides.

    They inherit the mask, so that they are so before any code of theirs runs.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # The first start would start it, too, and that ends with an empty mask.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
