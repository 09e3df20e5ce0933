"""The live display of a run: how far, what is at work, how long still."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from compatbench.engine.cell import Cell
from compatbench.engine.execute.settings import Event


@dataclass
class _AtWork:
    """A cell that a worker has begun."""

    cell: Cell
    start: float
    records: int = 0
    encoded: tuple[int, int] = (0, 0)

    def __str__(self) -> str:
        done, total = self.encoded
        if done < total:
            return f"{self.cell} · encoding images, {done:,} of {total:,}"
        records = len(self.cell.backbones) * len(self.cell.test_sets)
        return f"{self.cell} · {self.records} of {records} records"


class RunProgress:
    """Follows the events of a run.

    On a terminal it is a bar with the cells at work below it; elsewhere, one line
    for every tenth of the run, so that a log stays short.
    """

    def __init__(
        self, console: Console, cells: Sequence[Cell], jobs: int, past_seconds: dict[str, float]
    ) -> None:
        self._console = console
        self._jobs = jobs
        self._total = len(cells)
        self._left = list(cells)
        self._past = past_seconds
        self._at_work: dict[str, _AtWork] = {}
        self._spent: dict[str, list[float]] = defaultdict(list)
        self._told = 0
        self._waited = False
        self.failures: list[Event] = []
        self._progress = Progress(
            TextColumn("[bold]{task.completed:>4.0f}[/] of {task.total:.0f} cells"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rest]}"),
            console=console,
        )
        self._bar = self._progress.add_task("run", total=self._total, rest="")
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal:
            self._live.start()
            self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        """Takes note of an event and draws."""
        key = event.cell.key
        if event.kind == "waiting":
            self._note_waiting(key)
        elif event.kind == "retried":
            self._at_work.pop(key, None)
            self._console.print(
                f"[yellow]trying again[/] {escape(str(event.cell))}: {escape(event.error)}",
                highlight=False,
                soft_wrap=True,
            )
        elif event.kind == "started":
            self._at_work[key] = _AtWork(event.cell, time.monotonic())
        elif event.kind == "encoding":
            self._at_work[key].encoded = event.encoded
        elif event.kind == "measured":
            self._at_work[key].records += 1
        else:
            # Not at work here, if another process has run it meanwhile.
            if (item := self._at_work.pop(key, None)) is not None:
                self._spent[event.cell.name].append(time.monotonic() - item.start)
            self._left = [cell for cell in self._left if cell.key != key]
            if event.error:
                self.failures.append(event)
                self._console.print(
                    f"[red]failed[/] {escape(str(event.cell))}: {escape(event.error)}",
                    highlight=False,
                    soft_wrap=True,
                )
        self._draw()

    def _note_waiting(self, key: str) -> None:
        self._at_work.pop(key, None)
        if not self._waited:
            self._console.print(
                "another run of this folder has some of these cells at work; they are waited for"
            )
        self._waited = True

    def _draw(self) -> None:
        done = self._total - len(self._left)
        if self._console.is_terminal:
            rest = f"about {format_seconds(self.seconds_left())} left" if done < self._total else ""
            self._progress.update(self._bar, completed=done, rest=rest)
            lines = [Text(f"  {item}") for item in self._at_work.values()]
            self._live.update(Group(self._progress, *lines))
        elif self._total and done * 10 // self._total > self._told:
            self._told = done * 10 // self._total
            rest = f", about {format_seconds(self.seconds_left())} left" if self._left else ""
            self._console.print(f"{done} of {self._total} cells{rest}", highlight=False)

    def seconds_left(self) -> float:
        """Estimate from this run's cells, from earlier runs', or from the mean of all."""
        means = self._past | {name: sum(s) / len(s) for name, s in self._spent.items()}
        return estimate_seconds(self._left, means, self._jobs)


def estimate_seconds(cells: Sequence[Cell], means: dict[str, float], jobs: int) -> float:
    """Seconds that cells take, from the mean seconds of each method's cells."""
    # Before anything was measured: a cell of the mini suite takes about this long.
    default = sum(means.values()) / len(means) if means else 3.0
    return sum(means.get(cell.name, default) for cell in cells) / jobs


def format_seconds(seconds: float) -> str:
    """A duration in words: ``40 s``, ``3 min``, ``2 h 10 min``."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
