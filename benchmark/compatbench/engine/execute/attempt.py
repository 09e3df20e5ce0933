"""One attempt at a cell in this process: claim it, run it, report events, complete its record."""

from __future__ import annotations

from pathlib import Path

from compatbench.backbone.text.memory import set_memory_budget
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell, CellRecord, Record
from compatbench.engine.execute.settings import Event, OnEvent, Settings
from compatbench.engine.failures import Failure, describe_exception, kind_of
from compatbench.engine.keys import data_key
from compatbench.engine.locks import claim
from compatbench.engine.peak import PeakMemory
from compatbench.engine.plan import PlannedCell, missing_records
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker, describe_cell
from compatbench.errors import CompatbenchError
from compatbench.method.module import Module


class AttemptStore(RunStore):
    """Adds the attempt's number, its kind of failure and its peak memory to what is written."""

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder)
        self._memory = PeakMemory(device)
        self._attempt = 1

    def begin(self, cell: Cell, before: CellRecord | None) -> None:
        """Begins an attempt at a cell, of which the store holds ``before``."""
        self._attempt = next_attempt(cell, before)
        self._memory.reset()

    def write(self, record: CellRecord) -> None:
        super().write(self._complete(record))

    def write_module(self, module: Module, record: CellRecord) -> None:
        super().write_module(module, self._complete(record))

    def _complete(self, record: CellRecord) -> CellRecord:
        errors = record.errors
        peaks = [record.peak_memory or 0, self._memory.read() or 0]
        return record.model_copy(
            update={
                "attempt": self._attempt,
                "failure": kind_of(errors[0]) if errors else None,
                "trace": record.trace if errors else (),
                "peak_memory": max(peaks) or None,
            }
        )


def make_worker(settings: Settings) -> Worker:
    """The runner of cells in this process that the settings describe."""
    set_memory_budget(settings.memory_budget)
    store = AttemptStore(settings.store, settings.device)
    return Worker(store, FeatureCache(settings.cache), settings.device, settings.threads)


def run_cell(worker: Worker, cell: Cell, emit: OnEvent) -> Event:
    """Runs a cell and reports events; returns the last: ``finished``, or ``waiting`` if another
    process has claimed the cell.

    Raises:
        CompatbenchError: the input is broken or the store cannot be written.
    """
    with claim(worker.store, cell.key) as mine:
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
    """Runs a claimed cell; returns why it has no number, if it has none."""
    worker.cache.on_encoded = lambda *encoded: emit(Event("encoding", cell, encoded))
    if isinstance(worker.store, AttemptStore):
        worker.store.begin(cell, before)
    try:
        record = worker.run(cell, lambda _: emit(Event("measured", cell)))
    except CompatbenchError:
        raise
    except Exception as error:
        # Not the method's, such as a backbone that does not fit into memory.
        failure = describe_exception(error)
        note_failure(worker.store, cell, failure)
        return failure.error
    return next(iter(record.errors), "")


def next_attempt(cell: Cell, record: CellRecord | None) -> int:
    """The number of the attempt that follows on what the store holds of a cell."""
    if record is None:
        return 1
    # An attempt that was interrupted is continued.
    return record.attempt + PlannedCell(cell, record).failed


def note_failure(store: RunStore, cell: Cell, failure: Failure) -> bool:
    """Stores a failure that the worker could not store itself; the caller holds the claim.

    A stored fit stays: then what is still to be measured becomes failed records.

    Returns:
        False if the cell is done after all, and nothing was stored.

    Raises:
        CompatbenchError: the store cannot be written.
    """
    before = store.read(cell.key)
    if before is not None and PlannedCell(cell, before).done:
        return False
    notes = {
        "trace": failure.trace,
        "failure": kind_of(failure.error),
        "attempt": next_attempt(cell, before),
    }
    if before is None or before.status == "failed":
        store.write(describe_cell(cell, error=failure.error, **notes))
        return True
    records = {(r.backbone, r.test_set): r for r in before.records}
    for backbone, test_set in missing_records(cell, before):
        records[backbone, test_set] = Record(
            backbone=backbone,
            test_set=test_set,
            data=data_key(backbone, test_set),
            status="failed",
            reason=failure.error,
        )
    store.write(before.model_copy(update={**notes, "records": tuple(records.values())}))
    return True
