"""The life of a worker: it claims a cell that is not done, fits, predicts, and releases it.

It ends when no cell is left. Cells that others have at work are waited for, and run here if those
die. So any number of workers, on any machines that see one folder, share a run.
"""

from __future__ import annotations

import faulthandler
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.compute import Compute
from compatbench.engine.execute.events import FRAMES, MARK, Diary, Event, Note
from compatbench.engine.failures import (
    Failure,
    describe_end,
    kind_of,
    next_attempt,
    note_failure,
)
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker, make_worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.messages import first_line

HELD_SECONDS = 0.5  # until a cell that others have at work is tried again
# Seconds that a first cell may take to load libraries and weights, beyond its own time.
LOADING_SECONDS = 300.0


@dataclass(frozen=True)
class Job:
    """What the workers of a run are told.

    Attributes:
        cells: what is to be run, in order.
        tried: by key, the attempts at cells before this run.
        folder: of the run's events and marks.
    """

    cells: Sequence[Cell]
    tried: Mapping[str, int]
    store: Path
    cache: Path
    folder: Path
    compute: Compute = field(default_factory=Compute)

    def has_ended(self, store: RunStore, cell: Cell, record: CellRecord | None) -> bool:
        """Whether a cell is done, or has failed as often as this run tries it."""
        if record is None or not record.errors:
            return store.is_done(cell, record)
        failed = record.attempt - self.tried.get(cell.key, 0)
        return failed > self.compute.retry.get(kind_of(record.errors[0]), 0)

    def news(self, store: RunStore, cell: Cell, record: CellRecord | None) -> Event:
        """What is told of a cell after an attempt at it."""
        kind = "finished" if self.has_ended(store, cell, record) else "retried"
        return Event(kind, cell, error=next(iter(record.errors), "") if record else "")


def count_tried(store: RunStore, cells: Sequence[Cell]) -> dict[str, int]:
    """The attempts at cells so far, by key; one that was interrupted is gone on with."""
    return {cell.key: next_attempt(store.read(cell.key)) - 1 for cell in cells}


class Puller:
    """Runs the cells of a job that no other worker runs.

    In a process of its own it has a name, and a file for the last frames before the process dies.
    """

    def __init__(
        self,
        job: Job,
        worker: Worker,
        tell: Callable[[Event | Note], object],
        name: str = "",
        frames: TextIO | None = None,
    ) -> None:
        self._job, self._worker, self._tell = job, worker, tell
        self._name, self._frames = name, frames
        self._held: dict[str, int] = {}  # how often a cell was seen to be of another run
        self._is_new = True  # without libraries and weights

    def run(self) -> None:
        """Runs cells until all have ended, here or elsewhere.

        Raises:
            CompatbenchError: the input, the store or the cache is broken.
        """
        left = list(self._job.cells)
        while left:
            held = [cell for cell in left if not self._try(cell)]
            if len(held) == len(left):
                time.sleep(HELD_SECONDS)
            left = held

    def _try(self, cell: Cell) -> bool:
        """Whether a cell has ended; it is run here if it is free."""
        store, mark = self._worker.store, self._job.folder / f"{cell.key}{MARK}"
        # Until its mark is gone, the worker of a cell has not told of its end, and the end of the
        # first worker may be that of the run.
        if self._job.has_ended(store, cell, store.read(cell.key)) and not mark.exists():
            return True
        with store.claim(cell.key) as held:
            if not held:
                # A cell of this run looks so, too, between claim and mark, but not at two looks.
                self._held[cell.key] = 0 if mark.exists() else self._held.get(cell.key, 0) + 1
                if self._held[cell.key] == 2:
                    self._tell(Event("waiting", cell))
                return False
            with suppress(FileNotFoundError):
                # A worker of this run began it, and died.
                record = note_failure(store, cell, read_end(self._job, mark.read_text()))
                if (news := self._job.news(store, cell, record)).kind == "retried":
                    self._tell(news)
            record = store.read(cell.key)
            if not self._job.has_ended(store, cell, record):
                mark.write_text(self._name)
                record = self._run(cell)
            news = self._job.news(store, cell, record)
            if not news.error:
                # Whoever still gets the lock of the removed file reads the record first.
                store.claim_path(cell.key).unlink(missing_ok=True)
            self._tell(news)
            mark.unlink(missing_ok=True)
        return news.kind == "finished"

    def _run(self, cell: Cell) -> CellRecord:
        self._tell(Event("started", cell))
        self._set_alarm(LOADING_SECONDS if self._is_new else 0.0)

        def on_loaded() -> None:
            if self._is_new:
                self._is_new = False
                self._set_alarm()

        def on_encoded(*encoded: int) -> None:
            self._set_alarm()
            self._tell(Event("encoding", cell, (encoded[0], encoded[1])))

        self._worker.on_loaded, self._worker.cache.on_encoded = on_loaded, on_encoded
        try:
            return self._worker.run(cell, lambda _: self._tell(Event("measured", cell)))
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _set_alarm(self, more: float = 0.0) -> None:
        """Ends this process, with its frames written down, when an attempt takes too long."""
        if (timeout := self._job.compute.timeout) is not None and self._frames is not None:
            faulthandler.dump_traceback_later(timeout + more, exit=True, file=self._frames)


def read_end(job: Job, name: str, exit_code: int | None = None, oom: bool = False) -> Failure:
    """How the worker of a name ended, by what it has written down."""
    frames = job.folder / f"{name}{FRAMES}"
    text = frames.read_text(errors="replace") if name and frames.is_file() else ""
    return describe_end(text, job.compute.timeout, exit_code, oom)


def work(job: Job, name: str, device: str) -> None:
    """The life of a worker in a process of its own, which tells what happens in a file."""
    tell = Diary(job.folder, name)
    warnings.showwarning = lambda message, category, *_: (
        tell(Note("warning", str(message))) if category is CompatbenchWarning else None
    )
    with (job.folder / f"{name}{FRAMES}").open("w") as frames:
        faulthandler.enable(frames, all_threads=False)
        try:
            worker = make_worker(job.store, job.cache, job.compute.on(device))
            Puller(job, worker, tell, name, frames).run()
        except CompatbenchError as error:
            tell(Note("broken", str(error)))
        except OSError as error:
            tell(Note("broken", first_line(error)))
