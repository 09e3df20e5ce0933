"""Runs cells on this machine: in this process, or in worker processes that may die or hang."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import cast

from compatbench.engine.cell import Cell
from compatbench.engine.execute.attempt import make_worker, run_cell
from compatbench.engine.execute.cell_queue import CellQueue
from compatbench.engine.execute.process import ask_for_frames, read_frames, serve
from compatbench.engine.execute.scheduler import (
    HELD_SECONDS,
    Backend,
    Message,
    Scheduler,
    WorkerHandle,
    WorkerLost,
)
from compatbench.engine.execute.settings import OnEvent, Settings
from compatbench.engine.failures import count_oom_kills, describe_death

KILL_SECONDS = 10.0  # that a process may take to end when it is killed


def run_cells(cells: Sequence[Cell], settings: Settings, jobs: int, on_event: OnEvent) -> None:
    """Runs cells in the given order and reports events; one that fails does not stop the others.

    Cells that other processes run meanwhile are waited for, and run here if those die. With one
    job they run in this process, unless a timeout or retries need one that can be replaced.

    Raises:
        CompatbenchError: the input is broken or the store cannot be written. What was
            measured before is kept.
    """
    if not cells:
        return
    if jobs <= 1 and settings.timeout is None and not settings.retry:
        _run_in_this_process(cells, settings, on_event)
        return
    queue = CellQueue(cells, lambda _: 1.0, group=lambda _: None)
    backend = ProcessBackend(settings, min(jobs, len(cells)))
    try:
        for event in Scheduler(queue, backend, settings).run():
            on_event(event)
    finally:
        backend.close()


def _run_in_this_process(cells: Sequence[Cell], settings: Settings, on_event: OnEvent) -> None:
    worker = make_worker(settings)
    left = deque(cells)
    held = 0  # cells in a row that other processes run
    while left:
        cell = left.popleft()
        event = run_cell(worker, cell, on_event)
        on_event(event)
        held = held + 1 if event.kind == "waiting" else 0
        if held:
            left.append(cell)
        if held and held == len(left):
            time.sleep(HELD_SECONDS)
            held = 0


@dataclass(eq=False, kw_only=True)
class WorkerProcess(WorkerHandle):
    """A worker process.

    Attributes:
        frames: the file of its last frames.
        oom_kills: the system's count when its cell was started.
    """

    process: BaseProcess
    connection: Connection
    frames: Path
    oom_kills: int = 0


class ProcessBackend(Backend[WorkerProcess]):
    """Worker processes on this machine, ``size`` at most, started when there are cells for them."""

    def __init__(self, settings: Settings, size: int) -> None:
        super().__init__()
        self._settings = settings
        self._size = size
        self._context = multiprocessing.get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="compatbench-")
        self._numbers = count(1)

    def add_workers(self, waiting: int) -> None:
        for worker in list(self.workers):
            if worker.cell is None and not worker.process.is_alive():
                self.remove(worker)
        running = sum(worker.cell is not None for worker in self.workers)
        for _ in range(min(self._size, running + waiting) - len(self.workers)):
            self.workers.append(self._start())

    def start_cell(self, worker: WorkerProcess, cell: Cell) -> None:
        worker.oom_kills = count_oom_kills()
        with suppress(OSError):  # it has just died, as 'receive' will see
            worker.connection.send(cell)

    def receive(self, seconds: float | None) -> Iterator[tuple[WorkerProcess, Message]]:
        running = {w.connection: w for w in self.workers if w.cell is not None}
        for ready in wait(list(running), seconds):
            worker = running[cast(Connection, ready)]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                code = worker.process.exitcode or 0
                out_of_memory = count_oom_kills() > worker.oom_kills
                trace = read_frames(worker.frames)
                message = WorkerLost(describe_death(code, out_of_memory, trace))
            yield worker, message

    def last_frames(self, worker: WorkerProcess) -> tuple[str, ...]:
        return ask_for_frames(cast(int, worker.process.pid), worker.frames)

    def remove(self, worker: WorkerProcess) -> None:
        self.workers.remove(worker)
        worker.process.kill()
        worker.process.join(KILL_SECONDS)
        worker.connection.close()

    def close(self) -> None:
        super().close()
        self._folder.cleanup()

    def _start(self) -> WorkerProcess:
        ours, theirs = self._context.Pipe()
        frames = Path(self._folder.name) / f"{next(self._numbers)}.frames"
        process = self._context.Process(
            target=serve,
            args=(theirs, self._settings, frames),
            daemon=True,
            name="compatbench-worker",
        )
        with _inherited(OMP_NUM_THREADS=str(self._settings.threads)), _without_main_module():
            process.start()
        theirs.close()
        return WorkerProcess(process=process, connection=ours, frames=frames)


@contextmanager
def _without_main_module() -> Iterator[None]:
    """Starts children that do not import the caller's main module, for they need nothing of it.

    A script would run again in every worker, and one that was read from a pipe has no file.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _inherited(**variables: str) -> Iterator[None]:
    """Starts children with environment variables, and deaf to Ctrl-C.

    BLAS reads its thread count when it is loaded, before any of our code runs. A terminal sends
    Ctrl-C to all processes, and the parent decides: children inherit the mask of signals.
    """
    before = {name: os.environ.get(name) for name in variables}
    has_masks = hasattr(signal, "pthread_sigmask")
    mask: set[int] = set()
    if has_masks:
        # The first start would start it, too, and that ends with an empty mask.
        resource_tracker.ensure_running()
        mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}))
    os.environ.update(variables)
    try:
        yield
    finally:
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
