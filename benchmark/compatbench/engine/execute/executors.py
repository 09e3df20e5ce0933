"""Where cells run: in this process, or in worker processes that may die without harm."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compatbench.engine.cell import Cell, CellRecord, FailureKind, Record
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.engine.worker import Worker

POLL = 0.5  # seconds between looks at cells that other processes have


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know besides its cells.

    Attributes:
        memory_budget: bytes that a text tower's activations may take; None is a share of
            what is free.
        timeout: seconds after which an attempt at a cell is ended, the encoding of its images
            apart; None is never.
        retry: how often a cell is tried again after each kind of failure.
    """

    store: Path
    cache: Path
    device: str = "cpu"
    threads: int = 1
    memory_budget: int | None = None
    timeout: float | None = None
    retry: Mapping[FailureKind, int] = field(default_factory=dict)

    @property
    def isolated(self) -> bool:
        """Whether a cell needs a process of its own, which can be ended and replaced."""
        return self.timeout is not None or bool(self.retry)


@dataclass(frozen=True)
class Event:
    """What happened to a cell.

    Attributes:
        kind: ``waiting`` (another process runs it), ``started``, ``encoding`` (images, for the
            feature cache), ``measured`` (one more record is kept), ``retried`` (an attempt
            failed, and another follows) or ``finished``.
        encoded: while encoding, images done and images in all.
        error: of a cell that is finished or retried, why it has no number; empty if it has.
    """

    kind: Literal["waiting", "started", "encoding", "measured", "retried", "finished"]
    cell: Cell
    encoded: tuple[int, int] = (0, 0)
    error: str = ""


OnEvent = Callable[[Event], object]


def run_cells(cells: Sequence[Cell], settings: Settings, jobs: int, on_event: OnEvent) -> None:
    """Runs cells and tells what happens; one failing cell does not stop the others.

    Cells that other processes run meanwhile are waited for, and run here if those die.

    Raises:
        CompatbenchError: the input is broken or the store cannot be written. What was
            measured before is kept.
    """
    if not cells:
        return
    if jobs <= 1 and not settings.isolated:
        _run_here(cells, settings, on_event)
        return
    from compatbench.engine.execute.pool import Pool

    pool = Pool(settings, min(jobs, len(cells)))
    try:
        for event in pool.run(cells):
            on_event(event)
    finally:
        pool.close()


def _run_here(cells: Sequence[Cell], settings: Settings, on_event: OnEvent) -> None:
    worker = make_worker(settings)
    left = deque(cells)
    held_elsewhere = 0
    while left:
        cell = left.popleft()
        event = run_one(worker, cell, on_event, wait=False)
        on_event(event)
        if event.kind != "waiting":
            held_elsewhere = 0
            continue
        left.append(cell)
        held_elsewhere += 1
        if held_elsewhere == len(left):
            time.sleep(POLL)
            held_elsewhere = 0


def make_worker(settings: Settings) -> Worker:
    """The runner of cells that these settings describe, in this process."""
    from compatbench.backbone.text.memory import set_memory_budget
    from compatbench.data.feature_cache import FeatureCache
    from compatbench.engine.attempts import AttemptStore
    from compatbench.engine.worker import Worker

    set_memory_budget(settings.memory_budget)
    store = AttemptStore(settings.store, settings.device)
    return Worker(store, FeatureCache(settings.cache), settings.device, settings.threads)


def run_one(worker: Worker, cell: Cell, emit: OnEvent, *, wait: bool = True) -> Event:
    """Runs a cell, telling what happens; returns its last event.

    Args:
        wait: if another process runs the cell, for that; else the last event is ``waiting``.

    Raises:
        CompatbenchError: the input is broken or the store cannot be written.
    """
    from compatbench.engine.locks import claim
    from compatbench.engine.plan import PlannedCell

    with claim(worker.store, cell.key, wait=wait) as mine:
        if not mine.held:
            return Event("waiting", cell)
        before = worker.store.read(cell.key)
        error = ""
        # Another process may have run it since it was planned.
        if not PlannedCell(cell, before).done:
            emit(Event("started", cell))
            error = _attempt(worker, cell, before, emit)
        mine.done = not error
        return Event("finished", cell, error=error)


def _attempt(worker: Worker, cell: Cell, before: CellRecord | None, emit: OnEvent) -> str:
    """Runs a claimed cell; returns why it has no number, if so."""
    from compatbench.engine.attempts import AttemptStore
    from compatbench.engine.failures import describe_exception, note_failure

    def on_record(_: Record) -> None:
        emit(Event("measured", cell))

    worker.cache.on_encoded = lambda *encoded: emit(Event("encoding", cell, encoded))
    if isinstance(worker.store, AttemptStore):
        worker.store.begin(cell, before)
    try:
        record = worker.run(cell, on_record)
    except CompatbenchError:
        raise
    except Exception as error:
        # Not the method's, such as a backbone that does not fit into memory.
        failure = describe_exception(error)
        note_failure(worker.store, cell, failure)
        return failure.error
    failures = [r.reason for r in record.records if r.status == "failed"]
    return record.error or (failures[0] if failures else "")
