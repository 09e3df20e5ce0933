"""Runs cells on this machine: in this process, or in worker processes that may die or hang."""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import cast

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
from compatbench.files.processes import end_with_parent, kill, start_process
from compatbench.files.scratch import scratch_folder

WRITE_SECONDS = 1.0  # that a process may take to write down its frames
# The signal that makes it do so; None where there are no signals.
SHOW_FRAMES = getattr(signal, "SIGUSR1", None)

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)


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
    worker = make_worker(replace(settings, compute=compute.on(compute.list_devices()[0])))
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
    device: str
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
        compute, used = self.settings.compute, Counter(worker.device for worker in self.workers)
        device = min(compute.list_devices(), key=used.__getitem__)  # one that has died is replaced
        settings = replace(self.settings, compute=compute.on(device))
        process, connection = start_process(
            compute.threads, serve, settings, frames, daemon=settings.compute.decoders == 1
        )
        return WorkerProcess(process=process, connection=connection, frames=frames, device=device)

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
