"""What workers report of a run: one file of lines each, which whoever started them reads.

The folder is the run's own. Beside the lines it has a mark for each cell that a worker of the run
has at work. A mark that is left when the cell's claim is free says that the worker died.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compatbench.engine.cell import Cell

LINES, FRAMES, MARK = ".lines", ".frames", ".running"


@dataclass(frozen=True)
class Event:
    """What happened to a cell.

    Attributes:
        kind: ``waiting`` (another run has it at work), ``started``, ``encoding`` (images, for the
            feature cache), ``measured`` (predictions at one more place are stored), ``retried``
            (an attempt failed, and another follows) or ``finished``.
        encoded: while encoding, images done and images in all.
        error: why a finished or retried cell has no predictions; empty if it has.
    """

    kind: Literal["waiting", "started", "encoding", "measured", "retried", "finished"]
    cell: Cell
    encoded: tuple[int, int] = (0, 0)
    error: str = ""


OnEvent = Callable[[Event], object]


@dataclass(frozen=True)
class Note:
    """A warning of a worker, how many there are, or the broken input that ends the run."""

    kind: Literal["warning", "workers", "broken"]
    text: str


class Diary:
    """Writes what one worker tells, a line at a time."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = (folder / f"{name}{LINES}").open("a", encoding="utf-8")

    def __call__(self, told: Event | Note) -> None:
        line = vars(told) | ({"cell": told.cell.key} if isinstance(told, Event) else {})
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class Reader:
    """Reads what the workers of a run have told since it last looked."""

    def __init__(self, folder: Path, cells: Mapping[str, Cell]) -> None:
        self._folder, self._cells = folder, cells
        self._read: dict[Path, int] = {}  # bytes of each file

    def read(self) -> Iterator[Event | Note]:
        for path in sorted(self._folder.glob(f"*{LINES}")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]  # the last line may be at work
            self._read[path] = self._read.get(path, 0) + len(whole)
            for line in map(json.loads, whole.splitlines()):
                if "cell" in line:
                    cell, encoded = self._cells[line["cell"]], tuple(line["encoded"])
                    yield Event(**line | {"cell": cell, "encoded": encoded})
                else:
                    yield Note(**line)
