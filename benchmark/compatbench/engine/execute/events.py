"""Events of the cells of a run, for its display and for callers of ``compatbench.run``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compatbench.engine.cell import Cell

EventKind = Literal["waiting", "started", "encoding", "measured", "retried", "finished"]


@dataclass(frozen=True)
class Event:
    """An event of a cell.

    Attributes:
        kind: ``waiting`` (another run holds it), ``started``, ``encoding`` (images, for the
            feature cache), ``measured`` (predictions at one more place are stored), ``retried``
            (an attempt failed, and another follows) or ``finished``.
        encoded: while encoding, images done and images in all.
        error: why a finished or retried cell has no predictions; empty if it has.
    """

    kind: EventKind
    cell: Cell
    encoded: tuple[int, int] = (0, 0)
    error: str = ""


OnEvent = Callable[[Event], object]
