"""Where cells run: in this process, or in worker processes that may die without harm."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.run.cell import Cell, Record

if TYPE_CHECKING:
    from compatbench.run.fit import Worker


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know besides its cells.

    Attributes:
        memory_budget: bytes that a text tower's activations may take; None is a share of
            what is free.
    """

    store: Path
    cache: Path
    device: str = "cpu"
    threads: int = 1
    memory_budget: int | None = None


@dataclass(frozen=True)
class Event:
    """What happened to a cell.

    Attributes:
        kind: ``started``, ``encoding`` (images, for the feature cache), ``measured`` (one
            more record is kept) or ``finished``.
        encoded: while encoding, images done and images in all.
        error: of a finished cell, why it has no number; empty if it has.
    """

    kind: Literal["started", "encoding", "measured", "finished"]
    cell: Cell
    encoded: tuple[int, int] = (0, 0)
    error: str = ""


OnEvent = Callable[[Event], object]


def run_cells(cells: Sequence[Cell], settings: Settings, jobs: int, on_event: OnEvent) -> None:
    """Runs cells and tells what happens; one failing cell does not stop the others.

    Raises:
        CompatbenchError: the input is broken or the store cannot be written. What was
            measured before is kept.
    """
    if jobs <= 1:
        worker = make_worker(settings)
        for cell in cells:
            on_event(Event("started", cell))
            on_event(run_one(worker, cell, on_event))
    elif cells:
        pool = _Pool(settings, min(jobs, len(cells)))
        try:
            for event in pool.run(cells):
                on_event(event)
        finally:
            pool.close()


def make_worker(settings: Settings) -> Worker:
    """The runner of cells that these settings describe, in this process."""
    from compatbench.backbone.memory import set_memory_budget
    from compatbench.features import FeatureCache
    from compatbench.run.fit import Worker
    from compatbench.run.store import RunStore

    set_memory_budget(settings.memory_budget)
    return Worker(
        RunStore(settings.store), FeatureCache(settings.cache), settings.device, settings.threads
    )


def run_one(worker: Worker, cell: Cell, emit: OnEvent) -> Event:
    """Runs a cell, telling what happens; returns its last event.

    Raises:
        CompatbenchError: the input is broken or the store cannot be written.
    """
    worker.cache.on_encoded = lambda *encoded: emit(Event("encoding", cell, encoded))

    def on_record(_: Record) -> None:
        emit(Event("measured", cell))

    record = worker.run(cell, on_record)
    failures = [r.reason for r in record.records if r.status == "failed"]
    error = record.error or (failures[0] if failures else "")
    return Event("finished", cell, error=error)


def _serve(connection: Connection, settings: Settings) -> None:
    """The life of a worker process: a cell in, events out, until told to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    warnings.showwarning = lambda message, category, *_: (
        connection.send(str(message)) if category is CompatbenchWarning else None
    )
    try:
        worker = make_worker(settings)
        while (cell := connection.recv()) is not None:
            try:
                connection.send(run_one(worker, cell, connection.send))
            except CompatbenchError as error:
                connection.send(error)
    except (EOFError, BrokenPipeError):
        pass  # the parent is gone; what was measured is in the store


class _Pool:
    """Worker processes, each with at most one cell; a dead one is replaced."""

    def __init__(self, settings: Settings, size: int) -> None:
        self._settings = settings
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, BaseProcess] = {}
        self._at_work: dict[Connection, Cell] = {}
        for _ in range(size):
            self._start()

    def run(self, cells: Sequence[Cell]) -> Iterator[Event]:
        waiting = deque(cells)
        idle = list(self._workers)
        while waiting or self._at_work:
            while waiting and idle:
                connection = idle.pop(0)
                cell = waiting.popleft()
                self._at_work[connection] = cell
                connection.send(cell)
                yield Event("started", cell)
            for ready in wait(list(self._at_work)):
                assert isinstance(ready, Connection)
                try:
                    message = ready.recv()
                except (EOFError, OSError):
                    yield self._bury(ready)
                    idle.append(self._start())
                    continue
                if isinstance(message, CompatbenchError):
                    raise message
                if isinstance(message, str):
                    warnings.warn(message, CompatbenchWarning, stacklevel=2)
                    continue
                if message.kind == "finished":
                    del self._at_work[ready]
                    idle.append(ready)
                yield message

    def close(self) -> None:
        """Ends all workers; a cell at work is lost, and run again by the same command."""
        for process in self._workers.values():
            process.terminate()
        for connection, process in self._workers.items():
            process.join()
            connection.close()

    def _start(self) -> Connection:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_serve, args=(theirs, self._settings), daemon=True, name="compatbench-worker"
        )
        # BLAS reads its thread count when it is loaded, before any of our code runs.
        with _environment("OMP_NUM_THREADS", str(self._settings.threads)):
            process.start()
        theirs.close()
        self._workers[ours] = process
        return ours

    def _bury(self, connection: Connection) -> Event:
        """A worker died: its cell becomes a failed record, unless the fit is already kept."""
        from compatbench.run.store import RunStore

        process, cell = self._workers.pop(connection), self._at_work.pop(connection)
        process.join()
        connection.close()
        code = process.exitcode or 0
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        error = f"worker process died: {how}"
        store = RunStore(self._settings.store)
        if store.read(cell.key) is None:
            from compatbench.run.fit import describe_cell

            store.write(describe_cell(cell, error=error))
        return Event("finished", cell, error=error)


class _environment:
    """Sets an environment variable for the time a child process is started."""

    def __init__(self, name: str, value: str) -> None:
        self._name, self._value = name, value

    def __enter__(self) -> None:
        self._before = os.environ.get(self._name)
        os.environ[self._name] = self._value

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ[self._name]
        else:
            os.environ[self._name] = self._before
