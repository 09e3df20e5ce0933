"""One attempt at a cell in this process: claim it, run it, report events, complete its record."""

from __future__ import annotations

import ctypes
import re
from contextlib import suppress
from pathlib import Path

from compatbench.backbone.text.memory import set_memory_budget
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell, CellRecord, Record, describe_cell
from compatbench.engine.execute.settings import Event, OnEvent, Settings
from compatbench.engine.failures import Failure, describe_exception, kind_of
from compatbench.engine.keys import data_key
from compatbench.engine.plan import PlannedCell
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError
from compatbench.method.module import Module

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
# The kernel's command to forget the peak so far (``man 5 proc_pid_clear_refs``).
_RESET_PEAK = "5"


class PeakMemory:
    """Measures the most memory that one cell after the other takes in this process.

    On a GPU it is the memory of tensors there. Elsewhere it is the resident memory of the
    process, the backbones and features that it keeps at hand included; only Linux tells.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._known = False

    def reset(self) -> None:
        """Forgets the peak so far."""
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
            self._known = True
        elif self._device == "cpu":
            # What earlier cells have freed would count as this one's.
            with suppress(AttributeError, OSError, TypeError):  # where there is no glibc
                ctypes.CDLL(None).malloc_trim(0)
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
                self._known = True

    def read(self) -> int | None:
        """Bytes at the peak since the last reset; None if they are not known."""
        if not self._known:
            return None
        if self._device.startswith("cuda"):
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        found = _PEAK.search(Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else None


class AttemptStore(RunStore):
    """Adds the attempt's number, its kind of failure and its peak memory to what is written."""

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder)
        self._memory = PeakMemory(device)
        self._attempt = 1

    def begin(self, before: PlannedCell) -> None:
        """Begins an attempt at a cell."""
        self._attempt = _next_attempt(before)
        self._memory.reset()

    def write(self, record: CellRecord) -> None:
        super().write(self._complete(record))

    def write_module(self, module: Module, record: CellRecord) -> None:
        super().write_module(module, self._complete(record))

    def _complete(self, record: CellRecord) -> CellRecord:
        errors = record.errors
        peak = max(record.peak_memory or 0, self._memory.read() or 0)
        return record.model_copy(
            update={
                "attempt": self._attempt,
                "failure": kind_of(errors[0]) if errors else None,
                "trace": record.trace if errors else (),
                "peak_memory": peak or None,
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
    store = worker.store
    with store.claim(cell.key) as held:
        if not held:
            return Event("waiting", cell)
        before = PlannedCell(cell, store.read(cell.key))
        error = ""
        # Another process may have run it since it was planned.
        if not before.done:
            emit(Event("started", cell))
            error = _attempt(worker, before, emit)
        if not error:
            # Whoever still gets the lock of the removed file reads the record, and runs nothing.
            store.claim_path(cell.key).unlink(missing_ok=True)
        return Event("finished", cell, error=error)


def _attempt(worker: Worker, before: PlannedCell, emit: OnEvent) -> str:
    """Runs a claimed cell; returns why it has no number, if it has none."""
    cell = before.cell
    worker.cache.on_encoded = lambda *encoded: emit(Event("encoding", cell, encoded))
    if isinstance(worker.store, AttemptStore):
        worker.store.begin(before)
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


def _next_attempt(before: PlannedCell) -> int:
    # An attempt that was interrupted is continued.
    return 1 if before.record is None else before.record.attempt + before.failed


def note_failure(store: RunStore, cell: Cell, failure: Failure) -> bool:
    """Stores a failure that the worker could not store itself; the caller holds the claim.

    A stored fit stays: then what is still to be measured becomes failed records.

    Returns:
        False if the cell is done after all, and nothing was stored.

    Raises:
        CompatbenchError: the store cannot be written.
    """
    before = PlannedCell(cell, store.read(cell.key))
    if before.done:
        return False
    notes = {
        "trace": failure.trace,
        "failure": kind_of(failure.error),
        "attempt": _next_attempt(before),
    }
    if before.record is None or before.record.status == "failed":
        store.write(describe_cell(cell, error=failure.error, **notes))
        return True
    records = {(r.backbone, r.test_set): r for r in before.record.records}
    for backbone, test_set in before.missing:
        records[backbone, test_set] = Record(
            backbone=backbone,
            test_set=test_set,
            data=data_key(backbone, test_set),
            status="failed",
            reason=failure.error,
        )
    store.write(before.record.model_copy(update={**notes, "records": tuple(records.values())}))
    return True
