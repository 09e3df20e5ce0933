"""What workers are told of a run of cells, and the events that they report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from compatbench.engine.cell import Cell, FailureKind


@dataclass(frozen=True)
class Settings:
    """What a worker needs to know besides its cells; ``Compute`` says what the fields mean."""

    store: Path
    cache: Path
    device: str = "cpu"
    threads: int = 1
    memory_budget: int | None = None
    timeout: float | None = None
    retry: Mapping[FailureKind, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Event:
    """What happened to a cell.

    Attributes:
        kind: ``waiting`` (another process runs it), ``started``, ``encoding`` (images, for the
            feature cache), ``measured`` (one more record is stored), ``retried`` (an attempt
            failed, and another follows) or ``finished``.
        encoded: while encoding, images done and images in all.
        error: why a finished or retried cell has no number; empty if it has.
    """

    kind: Literal["waiting", "started", "encoding", "measured", "retried", "finished"]
    cell: Cell
    encoded: tuple[int, int] = (0, 0)
    error: str = ""

    @property
    def ends_attempt(self) -> bool:
        """Whether the worker is free again."""
        return self.kind in ("waiting", "finished")


OnEvent = Callable[[Event], None]
