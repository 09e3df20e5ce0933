"""How a cell can fail, told apart: an error of the method, want of memory, a death, a hang."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from compatbench.engine.cell import Cell, CellRecord, FailureKind, Record, describe_cell
from compatbench.engine.keys import data_key
from compatbench.engine.plan import PlannedCell, missing_records
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError

_KINDS: dict[str, FailureKind] = {kind: kind for kind in get_args(FailureKind)}

OUT_OF_MEMORY, DIED, TIMED_OUT = "OutOfMemory", "WorkerDied", "TimedOut"

# What PyTorch's allocator on the processor says; it has no exception of its own.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no number.

    Attributes:
        error: its type first.
        trace: the last frames, innermost last.
    """

    error: str
    trace: tuple[str, ...] = ()

    @property
    def kind(self) -> FailureKind:
        return kind_of(self.error)


def kind_of(error: str) -> FailureKind:
    """The kind of a failure, from its text, whose first word is its type."""
    name = error.partition(":")[0]
    if name == TIMED_OUT:
        return "timeout"
    if name == DIED:
        return "killed"
    if name in (OUT_OF_MEMORY, "OutOfMemoryError") or name.endswith("MemoryError"):
        return "oom"
    return "oom" if name == "RuntimeError" and _NO_MEMORY.search(error) else "error"


def describe_exception(error: Exception) -> Failure:
    """The failure that an exception of a cell is."""
    from compatbench.engine.worker import describe_error, last_frames

    return Failure(describe_error(error), last_frames(error))


def describe_timeout(seconds: float, trace: tuple[str, ...]) -> Failure:
    """The failure of a cell that was ended because it took too long."""
    return Failure(f"{TIMED_OUT}: no end after {seconds:g} s", trace)


def describe_death(exit_code: int, out_of_memory: bool, trace: tuple[str, ...] = ()) -> Failure:
    """The failure of a cell whose process has died.

    Args:
        exit_code: as ``multiprocessing`` gives it: negative for a signal.
        out_of_memory: whether the system has killed a process for want of memory meanwhile.
    """
    if exit_code >= 0:
        return Failure(f"{DIED}: worker process ended with exit code {exit_code}", trace)
    how = f"worker process killed by signal {-exit_code}{_signal_name(-exit_code)}"
    if out_of_memory and -exit_code == getattr(signal, "SIGKILL", 9):
        return Failure(f"{OUT_OF_MEMORY}: {how} for want of memory", trace)
    return Failure(f"{DIED}: {how}", trace)


def _signal_name(number: int) -> str:
    try:
        return f" ({signal.Signals(number).name})"
    except ValueError:
        return ""


def count_oom_kills() -> int:
    """Processes that the system has killed for want of memory since it was started.

    It says so in ``/proc/vmstat``, for containers too; 0 where there is no such file.
    """
    try:
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def next_attempt(cell: Cell, record: CellRecord | None) -> int:
    """The number of the attempt that follows on what the store holds of a cell."""
    if record is None:
        return 1
    # An attempt that was interrupted goes on.
    return record.attempt + PlannedCell(cell, record).failed


def note_failure(store: RunStore, cell: Cell, failure: Failure) -> bool:
    """Keeps a failure that the worker did not live to keep; whoever calls holds the claim.

    A fit that is kept stays: then what is still to be measured becomes failed records.

    Returns:
        False if the cell is done after all, and nothing was noted.

    Raises:
        CompatbenchError: the store cannot be written.
    """
    before = store.read(cell.key)
    if before is not None and PlannedCell(cell, before).done:
        return False
    notes = {
        "trace": failure.trace,
        "failure": failure.kind,
        "attempt": next_attempt(cell, before),
    }
    if before is None or before.status == "failed":
        store.write(describe_cell(cell, error=failure.error, **notes))
        return True
    failed = [
        Record(
            backbone=backbone,
            test_set=test_set,
            data=data_key(backbone, test_set),
            status="failed",
            reason=failure.error,
        )
        for backbone, test_set in missing_records(cell, before)
    ]
    places = {(r.backbone, r.test_set) for r in failed}
    kept = [r for r in before.records if (r.backbone, r.test_set) not in places]
    store.write(before.model_copy(update={**notes, "records": (*kept, *failed)}))
    return True


def parse_retry(text: str) -> Mapping[FailureKind, int]:
    """How often each kind of failure is tried again: ``oom,killed:3``; once, if not said.

    Raises:
        CompatbenchError: an unknown kind, or no number of at least 1.
    """
    wanted: dict[FailureKind, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, number = part.partition(":")
        kind = _KINDS.get(name)
        times = int(number) if number.isdecimal() else 0 if colon else 1
        if kind is None or times < 1:
            raise CompatbenchError(
                f"--retry '{part}': give kinds of failure ({', '.join(_KINDS)}), each with the "
                "number of further attempts or without: oom,killed:3"
            )
        wanted[kind] = times
    return wanted
