"""Crews of this machine: processes that are watched and replaced, or this process alone."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from compatbench.engine.execute.content_process import serve
from compatbench.engine.execute.dispatcher import Crew, Job
from compatbench.engine.execute.planning import Planner
from compatbench.engine.worker import Order, make_worker, run_cell
from compatbench.files.processes import is_stopped, kill, receive_data, start_process

OnMessage = Callable[[int, str, Any], None]


def make_crew(job: Job, planner: Planner | None = None) -> Crew:
    """Return the crew for a job: processes, or this process if a debugger has to reach its code.

    The process that planned the run becomes the first worker.
    """
    if job.compute.executor == "here":
        return ThisProcess(job)
    return Processes(job, planner)


class ThisProcess:
    """A crew of one worker, in this process: a debugger stops in the code of a method."""

    deaths = 0

    def __init__(self, job: Job) -> None:
        device = job.compute.list_devices()[0]
        compute = job.compute.on(device)
        self._worker = make_worker(job.store, job.cache, compute, job.inode)
        self._is_new = False
        self._order: Order | None = None

    def start(self) -> None:
        self._is_new = True

    def find_stopped(self) -> list[int]:
        return []

    def send(self, worker: int, order: Order) -> None:
        self._order = order

    def listen(self, seconds: float, on_message: OnMessage) -> None:
        if self._is_new:
            self._is_new = False
            on_message(1, "ready", None)
        elif self._order is not None:
            order = self._order
            self._order = None
            run_cell(self._worker, order, partial(on_message, 1))
        else:
            time.sleep(seconds)

    def kill(self, worker: int) -> None: ...

    def end(self) -> None: ...


class Processes:
    """A crew of processes of this machine."""

    deaths = 0

    def __init__(self, job: Job, planner: Planner | None = None) -> None:
        # Workers are given their cells one by one. All at once would fill the pipe of a worker that
        # still starts, and the next one would start only after it.
        self._job = replace(job, cells=())
        self._planner = planner
        self._numbers = count(1)
        self._workers = dict[int, tuple[BaseProcess, Connection]]()
        self._devices = dict[int, str]()

    def start(self) -> int:
        compute = self._job.compute
        used = Counter(self._devices[worker] for worker in self._workers)
        device = min(compute.list_devices(), key=used.__getitem__)
        worker = next(self._numbers)
        self._devices[worker] = device
        if self._planner is not None:
            process, connection = self._planner.hand_over()
            self._planner = None
        else:
            daemon = compute.on(device).decoders == 1  # which cannot start processes itself
            process, connection = start_process(compute.threads, serve, daemon=daemon)
        self._workers[worker] = (process, connection)
        with suppress(OSError):  # it has died, which the next call of listen reports
            connection.send(("job", (self._job, device)))
        return worker

    def send(self, worker: int, order: Order) -> None:
        with suppress(OSError):  # it has just died, which the next call of listen reports
            self._workers[worker][1].send(order)

    def listen(self, seconds: float, on_message: OnMessage) -> None:
        processes = [process.sentinel for process, _ in self._workers.values()]
        wait([*processes, *(connection for _, connection in self._workers.values())], seconds)
        for worker, (process, connection) in list(self._workers.items()):
            is_alive = process.is_alive()  # looked at before its last messages are read
            for kind, value in receive_data(connection):
                on_message(worker, kind, value)
            if not is_alive:
                del self._workers[worker]
                on_message(worker, "died", describe_exit(process.exitcode))

    def find_stopped(self) -> list[int]:
        stopped = []
        for worker, (process, _) in self._workers.items():
            if process.pid is not None and is_stopped(process.pid):
                stopped.append(worker)
        return stopped

    def kill(self, worker: int) -> None:
        process, _ = self._workers.pop(worker)
        kill(process)

    def end(self) -> None:
        for worker in list(self._workers):
            self.kill(worker)


def describe_exit(code: int | None) -> str:
    """Return the error of a cell whose worker process ended with an exit code."""
    if code is None or code >= 0:
        return f"WorkerDied: worker process ended with exit code {code}"
    names = {each.value: f" ({each.name})" for each in signal.Signals}
    hint = ", as the system does when memory runs out" if code == -9 else ""
    return f"WorkerDied: worker process killed by signal {-code}{names.get(-code, '')}{hint}"
