"""How attempts at a cell fail: an error, too little memory, a dead process, a timeout."""

from __future__ import annotations

import re
import signal
import traceback
from dataclasses import dataclass
from pathlib import Path

from compatbench.engine.cell import Cell, CellRecord, FailureKind, Outcome, describe_cell
from compatbench.engine.store import RunStore
from compatbench.method.mistakes import explain

OUT_OF_MEMORY, DIED, TIMED_OUT = "OutOfMemory", "WorkerDied", "TimedOut"
LAST_FRAMES = 5  # that are stored with a failure

_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
# PyTorch's allocator on the processor has no exception type of its own, nor have CUDA's libraries.
_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|ALLOC_FAILED", re.IGNORECASE
)


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no number."""

    error: str  # its type first
    trace: tuple[str, ...] = ()  # the last frames, innermost last


def kind_of(error: str) -> FailureKind:
    """The kind of a failure, from its text, whose first word is its type."""
    name = error.partition(":")[0]
    if name == TIMED_OUT:
        return "timeout"
    if name == DIED:
        return "killed"
    if name in (OUT_OF_MEMORY, "OutOfMemoryError") or name.endswith("MemoryError"):
        return "oom"
    raised = name in ("RuntimeError", "AcceleratorError")
    return "oom" if raised and _NO_MEMORY.search(error) else "error"


def describe_exception(error: Exception) -> Failure:
    """The failure that an exception of a cell is."""
    frames = traceback.extract_tb(error.__traceback__)[-LAST_FRAMES:]
    trace = tuple(f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in frames)
    return Failure(explain(error), trace)


def describe_end(
    frames: str, timeout: float | None, exit_code: int | None, out_of_memory: bool
) -> Failure:
    """The failure of a cell whose process ended.

    Args:
        frames: what the process has written down of itself, as ``faulthandler`` does.
        timeout: after how many seconds it had to end.
        exit_code: None where it is not known, as on another machine.
        out_of_memory: whether the system has killed a process to free memory.
    """
    main = frames.rpartition("Thread 0x")[2]  # the first thread is written down last
    # Of a thread, the innermost frame is written first.
    innermost = reversed(_FRAME.findall(main)[:LAST_FRAMES])
    trace = tuple(f"{Path(file).name}:{line} in {name}" for file, line, name in innermost)
    if timeout is not None and "Timeout (" in frames:
        return Failure(f"{TIMED_OUT}: no end after {timeout:g} s", trace)
    if exit_code is None:
        return Failure(f"{DIED}: the worker's process, or its machine, is gone", trace)
    if exit_code >= 0:  # it is negative for a signal
        return Failure(f"{DIED}: worker process ended with exit code {exit_code}", trace)
    known = {each.value: f" ({each.name})" for each in signal.Signals}
    how = f"worker process killed by signal {-exit_code}{known.get(-exit_code, '')}"
    if out_of_memory and "SIGKILL" in how:
        return Failure(f"{OUT_OF_MEMORY}: {how}, because memory ran out", trace)
    return Failure(f"{DIED}: {how}", trace)


def count_oom_kills() -> int:
    """Processes that the system has killed to free memory since it was started.

    Linux counts them in ``/proc/vmstat``, for containers too; 0 where there is no such file.
    """
    try:
        matched = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(matched[1]) if matched else 0


def next_attempt(before: CellRecord | None) -> int:
    """The number of the attempt that follows on what the store holds of a cell."""
    # An attempt that was interrupted is continued.
    return 1 if before is None else before.attempt + bool(before.errors)


def end_attempt(
    record: CellRecord, attempt: int, peak_memory: int | None, trace: tuple[str, ...] | None = None
) -> CellRecord:
    """A record with the attempt's number, its kind of failure and its peak memory."""
    errors = record.errors
    how = {
        "attempt": attempt,
        "failure": kind_of(errors[0]) if errors else None,
        "trace": () if not errors else record.trace if trace is None else trace,
        "peak_memory": max(record.peak_memory or 0, peak_memory or 0) or None,
    }
    return record.model_copy(update=how)


def note_failure(
    store: RunStore, cell: Cell, failure: Failure, peak_memory: int | None = None
) -> CellRecord:
    """Stores the failure of an attempt; the caller holds the claim, or runs the cell.

    A stored fit stays: then each place that is left has a failed outcome. A cell that is done
    after all has no failure.
    """
    before = store.read(cell.key)
    if before is not None and store.is_done(cell, before):
        return before
    if before is None or before.status == "failed":
        peak_before = None if before is None else before.peak_memory
        record = describe_cell(cell, error=failure.error, peak_memory=peak_before)
    else:
        outcomes = {(o.backbone, o.test_set): o for o in before.records}
        for backbone, test_set, data in store.left(cell, before):
            outcomes[backbone, test_set] = Outcome(
                backbone=backbone,
                test_set=test_set,
                data=data,
                status="failed",
                reason=failure.error,
            )
        record = before.model_copy(update={"records": tuple(outcomes.values())})
    record = end_attempt(record, next_attempt(before), peak_memory, failure.trace)
    store.write(record)
    return record
