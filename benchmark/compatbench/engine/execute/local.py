"""Starts the workers of a run on this machine, watches them, and starts one anew if it dies."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import LINES, MARK, Event, OnEvent, Reader
from compatbench.engine.execute.loop import Job, Puller, count_tried, read_end, work
from compatbench.engine.failures import count_oom_kills, note_failure
from compatbench.engine.store import RunStore
from compatbench.engine.worker import make_worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.processes import end_with_parent, kill, start_process
from compatbench.files.scratch import scratch_folder

if TYPE_CHECKING:
    from compatbench.engine.execute.on_ray import RayCrew

POLL_SECONDS = 0.1


@contextmanager
def open_job(cells: Sequence[Cell], store: Path, cache: Path, compute: Compute) -> Iterator[Job]:
    """What the workers of a run are told, with the folder of its events, which is then removed."""
    store.mkdir(parents=True, exist_ok=True)
    with scratch_folder(inside=store) as folder:
        yield Job(cells, count_tried(RunStore(store), cells), store, cache, folder, compute)


def run_here(job: Job, on_event: OnEvent) -> None:
    """Runs the cells of a job on this machine; one that fails does not stop the others.

    With one worker they run in this process, unless a timeout or retries need one that can be
    replaced.
    """
    compute = job.compute
    if compute.count_workers() > 1 or compute.timeout is not None or compute.retry:
        follow(LocalCrew(job), job, on_event)
        return
    worker = make_worker(job.store, job.cache, compute.on(compute.list_devices()[0]))
    Puller(job, worker, on_event).run()  # type: ignore[arg-type]  # no notes in this process


def follow(
    crew: LocalCrew | RayCrew,
    job: Job,
    on_event: OnEvent,
    on_workers: Callable[[int], object] = lambda _: None,
) -> None:
    """Reports what a crew tells until it has ended, and ends it if anything goes wrong."""
    reader = Reader(job.folder, {cell.key: cell for cell in job.cells})
    try:
        while True:
            at_work = crew.is_at_work()
            for told in [*reader.read(), *crew.tend()]:
                if isinstance(told, Event):
                    on_event(told)
                elif told.kind == "warning":
                    warnings.warn(told.text, CompatbenchWarning, stacklevel=2)
                elif told.kind == "workers":
                    on_workers(int(told.text))
                else:
                    raise CompatbenchError(told.text)
            if not at_work:
                return
    finally:
        crew.end()


class LocalCrew:
    """Processes of this machine, as many as the job's ``compute`` counts."""

    def __init__(self, job: Job) -> None:
        self._job, self._store = job, RunStore(job.store)
        self._numbers = count(1)
        self._workers: dict[str, tuple[BaseProcess, str]] = {}  # and its device
        self._oom_kills = count_oom_kills()
        for _ in range(min(job.compute.count_workers(), len(job.cells))):
            self._start()

    def _start(self) -> None:
        compute, used = self._job.compute, Counter(on for _, on in self._workers.values())
        device = min(compute.list_devices(), key=used.__getitem__)
        name = str(next(self._numbers))
        daemon = compute.on(device).decoders == 1  # which cannot start processes itself
        process, _ = start_process(compute.threads, serve, self._job, name, device, daemon=daemon)
        self._workers[name] = process, device

    def tend(self) -> Iterator[Event]:
        """Looks after the workers, once; what happened to cells that they cannot report."""
        wait([process.sentinel for process, _ in self._workers.values()], POLL_SECONDS)
        dead = {name: p for name, (p, _) in self._workers.items() if not p.is_alive()}
        for name, process in dead.items():
            del self._workers[name]
            process.join()
            if process.exitcode:
                code, lines = process.exitcode, self._job.folder / f"{name}{LINES}"
                if code > 0 and not lines.is_file():
                    raise CompatbenchError(f"a worker cannot start: it ended with exit code {code}")
                yield from self._note_death(name, process.exitcode)
                job, store = self._job, self._store
                if not all(job.has_ended(store, cell, store.read(cell.key)) for cell in job.cells):
                    self._start()

    def is_at_work(self) -> bool:
        return bool(self._workers)

    def end(self) -> None:
        # Cells that are still at work are lost, and run by the next run.
        for process, _ in self._workers.values():
            kill(process)

    def _note_death(self, name: str, exit_code: int) -> Iterator[Event]:
        """Stores the failure of the cell that a dead worker had at work."""
        kills, self._oom_kills = self._oom_kills, count_oom_kills()
        for mark in self._job.folder.glob(f"*{MARK}"):
            if mark.read_text() != name:
                continue
            cell = next(each for each in self._job.cells if each.key == mark.stem)
            with self._store.claim(cell.key) as held:
                if held:  # or another worker has seen the mark
                    failure = read_end(self._job, name, exit_code, self._oom_kills > kills)
                    record = note_failure(self._store, cell, failure)
                    mark.unlink()
                    yield self._job.news(self._store, cell, record)


def serve(_: Connection, job: Job, name: str, device: str) -> None:
    """The life of a worker process; it ends with the parent."""
    end_with_parent()
    work(job, name, device)
