"""Runs cells on this machine: in this process, or in worker processes that may die or hang."""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing import parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from compatbench.engine.cell import Cell
from compatbench.engine.execute.cell_queue import CellQueue
from compatbench.engine.execute.compute import OnEvent, Settings
from compatbench.engine.execute.scheduler import (
    HELD_SECONDS,
    Message,
    Scheduler,
    WorkerHandle,
    report_cell,
)
from compatbench.engine.failures import LAST_FRAMES, count_oom_kills, describe_death
from compatbench.engine.worker import make_worker, run_cell
from compatbench.files.scratch import scratch_folder

KILL_SECONDS = 10.0  # that a process may take to end when it is killed
WRITE_SECONDS = 1.0  # that a process may take to write down its frames
# The signal that makes it do so; None where there are no signals.
SHOW_FRAMES = getattr(signal, "SIGUSR1", None)

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_DIE_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def run_cells(cells: Sequence[Cell], settings: Settings, on_event: OnEvent) -> None:
    """Runs cells in the given order and reports events; one that fails does not stop the others.

    Cells that other processes run meanwhile are waited for, and run here if those die. With one
    job they run in this process, unless a timeout or retries need one that can be replaced.
    """
    compute = settings.compute
    if compute.count_workers() > 1 or compute.timeout is not None or compute.retry:
        with scratch_folder() as folder:
            ProcessScheduler(cells, settings, on_event, folder).run()
        return
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
    process: BaseProcess
    connection: Connection
    frames: Path  # the file of its last frames
    oom_kills: int = 0  # of the system, when its cell began


class ProcessScheduler(Scheduler[WorkerProcess]):
    """Runs cells in the given order in processes, started when there are cells for them."""

    def __init__(
        self, cells: Sequence[Cell], settings: Settings, on_event: OnEvent, folder: Path
    ) -> None:
        queue = CellQueue(cells, lambda _: 1.0, group=lambda _: None)
        super().__init__(queue, settings, on_event)
        self._folder = folder  # for the last frames of the processes
        self._numbers = count(1)

    def count_room(self) -> int:
        return self.settings.compute.count_workers()

    def start_worker(self) -> WorkerProcess:
        frames = self._folder / f"{next(self._numbers)}.frames"
        threads = self.settings.compute.threads
        process, connection = start_process(threads, serve, self.settings, frames)
        return WorkerProcess(process=process, connection=connection, frames=frames)

    def start_cell(self, worker: WorkerProcess, cell: Cell) -> None:
        worker.oom_kills = count_oom_kills()
        with suppress(OSError):  # it has just died, as 'receive' will see
            worker.connection.send(cell)

    def receive(self, seconds: float | None) -> Iterator[tuple[WorkerProcess, Message]]:
        running = {worker.connection: worker for worker in self.running()}
        for ready in wait(list(running), seconds):
            worker = running[cast(Connection, ready)]
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                code = worker.process.exitcode or 0
                out_of_memory = count_oom_kills() > worker.oom_kills
                message = describe_death(code, out_of_memory, _read_frames(worker.frames))
            yield worker, message

    def last_frames(self, worker: WorkerProcess) -> tuple[str, ...]:
        # It may be deep in a library's code.
        if SHOW_FRAMES is not None:
            with suppress(ProcessLookupError):
                os.kill(cast(int, worker.process.pid), SHOW_FRAMES)
            deadline, size = time.monotonic() + WRITE_SECONDS, -1
            # Until they are written, and the file no longer grows.
            while size <= 0 or size != worker.frames.stat().st_size:
                if time.monotonic() > deadline:
                    break
                size = worker.frames.stat().st_size
                time.sleep(0.05)
        return _read_frames(worker.frames)

    def end_worker(self, worker: WorkerProcess) -> None:
        kill(worker.process)
        worker.connection.close()


def _read_frames(frames: Path) -> tuple[str, ...]:
    """The last frames that a worker has written down, innermost last."""
    if not frames.is_file():
        return ()
    # The interpreter writes the innermost first.
    found = _FRAME.findall(frames.read_text(errors="replace"))[:LAST_FRAMES]
    return tuple(f"{Path(file).name}:{line} in {name}" for file, line, name in reversed(found))


def serve(connection: Connection, settings: Settings, frames: Path) -> None:
    """The life of a worker process: cells in, events out; it ends with the parent."""
    end_with_parent()
    with frames.open("w") as file:  # for the last frames before a crash or a timeout
        faulthandler.enable(file, all_threads=False)
        if SHOW_FRAMES is not None:
            faulthandler.register(SHOW_FRAMES, file, all_threads=False)
        with suppress(EOFError, OSError):  # the parent is gone; what was measured is in the store
            worker = make_worker(settings)
            while True:
                report_cell(worker, connection.recv(), connection.send)


def start_process(
    threads: int, target: Callable[..., None], *args: Any
) -> tuple[BaseProcess, Connection]:
    """Starts ``target(connection, *args)`` in a process; returns it, and its connection's end."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=target, args=(theirs, *args), daemon=True, name="compatbench-worker"
    )
    with _inherited(threads):
        process.start()
    theirs.close()
    return process, ours


@contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """Starts children with a number of threads, deaf to Ctrl-C, without the caller's main module.

    BLAS reads its thread count when it is loaded, before any of our code runs. A terminal sends
    Ctrl-C to all processes, and the parent decides: children inherit the mask of signals. A
    script as main module would run again in every worker, and one from a pipe has no file.
    """
    main, before = sys.modules["__main__"], os.environ.get("OMP_NUM_THREADS")
    has_masks = hasattr(signal, "pthread_sigmask")
    mask: set[int] = set()
    if has_masks:
        # The first start would start it, too, and that ends with an empty mask.
        resource_tracker.ensure_running()
        mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}))
    os.environ["OMP_NUM_THREADS"] = str(threads)
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def kill(process: BaseProcess) -> None:
    """Kills a process, with those that it has started if it leads a group."""
    with suppress(AttributeError, ProcessLookupError):  # where there are no groups; it leads none
        os.killpg(cast(int, process.pid), signal.SIGKILL)
    process.kill()
    process.join(KILL_SECONDS)


def end_with_parent(*, leads: bool = False) -> None:
    """Ends this process when its parent dies: a cell that hangs would keep its claim forever.

    Args:
        leads: makes it lead a group, of those that it starts, which end with it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    leads = leads and hasattr(os, "setsid")
    if leads:
        os.setsid()
    elif sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        if leads:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    # On Linux, too: the parent may have died before the call of prctl.
    threading.Thread(target=watch, daemon=True).start()
