"""The store as a worker sees it: a record tells of its attempt, too."""

from __future__ import annotations

from pathlib import Path

from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.failures import kind_of, next_attempt
from compatbench.engine.peak import PeakMemory
from compatbench.engine.store import RunStore
from compatbench.method.module import Module


class AttemptStore(RunStore):
    """Adds to what is written which attempt it is, how that failed, and the memory it took."""

    def __init__(self, folder: Path, device: str) -> None:
        super().__init__(folder)
        self._memory = PeakMemory(device)
        self._attempt = 1

    def begin(self, cell: Cell, before: CellRecord | None) -> None:
        """Begins an attempt.

        Args:
            before: what the store holds of the cell.
        """
        self._attempt = next_attempt(cell, before)
        self._memory.reset()

    def write(self, record: CellRecord) -> None:
        super().write(self._complete(record))

    def write_module(self, module: Module, record: CellRecord) -> None:
        super().write_module(module, self._complete(record))

    def _complete(self, record: CellRecord) -> CellRecord:
        reasons = [r.reason for r in record.records if r.status == "failed"]
        if record.status == "failed":
            reasons = [record.error]
        peaks = [record.peak_memory or 0, self._memory.read() or 0]
        return record.model_copy(
            update={
                "attempt": self._attempt,
                "failure": kind_of(reasons[0]) if reasons else None,
                "trace": record.trace if reasons else (),
                "peak_memory": max(peaks) or None,
            }
        )
