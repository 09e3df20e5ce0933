"""The live display of a run: how far, what is at work, and the ranking as it grows."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from compatbench.cli.tables import format_seconds, print_line
from compatbench.engine.cell import Cell
from compatbench.engine.execute.settings import Event
from compatbench.engine.plan import Plan

if TYPE_CHECKING:
    from compatbench.pages.suite_page import SuitePage

RANKING_SECONDS = 5.0  # between two looks at the ranking
PACE_SECONDS = 30.0  # of cells, before their pace is used: the first ones load libraries


@dataclass
class _Running:
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

    On a terminal it is the ranking so far, a bar, and the cells that are running; elsewhere,
    one line for every tenth of the run, so that a log stays short.

    Args:
        out: the folder of ``results/``; without it, no ranking is shown.
    """

    def __init__(self, console: Console, out: Path | None = None) -> None:
        self._console = console
        self._out = out
        self.plan: Plan | None = None
        self._workers = 1
        self._left: dict[str, Cell] = {}
        self._total = 0
        self._seconds: dict[str, float] = {}
        self._spent: dict[str, float] = defaultdict(float)
        self._expected: dict[str, float] = defaultdict(float)
        self._running: dict[str, _Running] = {}
        self._tenths = 0
        self._waited = False
        self._ranking: RenderableType = Text()
        self._rank_at = 0.0
        self._progress = Progress(
            TextColumn("[bold]{task.completed:>4.0f}[/] of {task.total:.0f} cells"),
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rest]}"),
            console=console,
        )
        self._bar = self._progress.add_task("run", total=0, rest="")
        # Drawn by a thread of its own, so that the ranking grows between events, too.
        self._live = Live(
            console=console, refresh_per_second=2, transient=True, get_renderable=self._render
        )

    def start(self, plan: Plan, workers: int) -> None:
        """Begins to show the cells of a plan, and the ranking of its suite."""
        self.plan = plan
        self.begin([item.cell for item in plan.to_do], workers, plan.estimate.cell)

    def begin(self, cells: Sequence[Cell], workers: int, seconds: Callable[[Cell], float]) -> None:
        """Begins to show cells.

        Args:
            seconds: what a cell is expected to take.
        """
        self._workers = max(workers, 1)
        self._left = {cell.key: cell for cell in cells}
        self._total = len(self._left)
        self._tenths = 0
        self._seconds = {cell.key: seconds(cell) for cell in cells}
        self._progress.update(self._bar, total=self._total)
        if self._console.is_terminal and self._left:
            self._live.start()

    def __enter__(self) -> RunProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def on_event(self, event: Event) -> None:
        """Notes an event and draws."""
        key = event.cell.key
        if event.kind == "waiting":
            self._running.pop(key, None)
            if not self._waited:
                self._console.print(
                    "another run of this folder has started some of these cells; waiting for them"
                )
            self._waited = True
        elif event.kind == "retried":
            self._running.pop(key, None)
            self._print("[yellow]trying again[/]", event)
        elif event.kind == "started":
            self._running[key] = _Running(event.cell, time.monotonic())
        elif event.kind == "encoding":
            self._running[key].encoded = event.encoded
        elif event.kind == "measured":
            self._running[key].records += 1
        else:
            # Not running here, if another process has run it meanwhile.
            if (item := self._running.pop(key, None)) is not None:
                self._spent[event.cell.name] += time.monotonic() - item.start
                self._expected[event.cell.name] += self._seconds[key]
            self._left.pop(key, None)
            if event.error:
                self._print("[red]failed[/]", event)
        self._print_tenths()

    def _print(self, what: str, event: Event) -> None:
        print_line(self._console, f"{what} {escape(str(event.cell))}: {escape(event.error)}")

    def _render(self) -> RenderableType:
        rest = f"about {format_seconds(self.seconds_left())} left" if self._left else ""
        self._progress.update(self._bar, completed=self._total - len(self._left), rest=rest)
        self._update_ranking()
        lines = [Text(f"  {item}") for item in list(self._running.values())]
        # A ranking that is longer than the terminal is cut at its foot.
        return Group(self._progress, *lines, self._ranking)

    def _print_tenths(self) -> None:
        done = self._total - len(self._left)
        if not self._console.is_terminal and done * 10 // self._total > self._tenths:
            self._tenths = done * 10 // self._total
            rest = f", about {format_seconds(self.seconds_left())} left" if self._left else ""
            print_line(self._console, f"{done} of {self._total} cells{rest}")

    def _update_ranking(self) -> None:
        plan, now = self.plan, time.monotonic()
        if plan is None or self._out is None or now < self._rank_at:
            return
        from compatbench.pages.suite_page import read_suite_page
        from compatbench.pages.terminal import ranking_renderable
        from compatbench.results.collect import measured_so_far

        measured = measured_so_far(plan.suite, plan.matrix.registry, plan.reread().planned)
        page = read_suite_page(plan.suite, self._out, measured)
        if (part := _largest_part(page, restriction_of(plan))) is not None:
            self._ranking = ranking_renderable(page.restrict(**part), self._console.width)
        # A look at many records takes a moment: a fiftieth of the time at most.
        took = time.monotonic() - now
        self._rank_at = now + max(RANKING_SECONDS, 50 * took)

    def seconds_left(self) -> float:
        """Estimate of what is counted, corrected by what this run's finished cells took.

        A method with finished cells goes on at their pace. Cells of the others take what is
        counted, and as much more as finished cells did on average: loading and waiting cost the
        same, however long the fit.
        """
        spent, expected = sum(self._spent.values()), sum(self._expected.values())
        known = spent >= PACE_SECONDS
        more = max(spent - expected, 0.0) / max(self._total - len(self._left), 1) if known else 0.0
        seconds = 0.0
        for key, cell in list(self._left.items()):
            if known and self._expected[cell.name]:
                pace = self._spent[cell.name] / self._expected[cell.name]
                seconds += self._seconds[key] * pace
            else:
                seconds += self._seconds[key] + more
        return seconds / self._workers


def _largest_part(page: SuitePage, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The part of what was asked for with the most methods that can be ranked already.

    Seeds are run one after the other, so it has the first seeds, and the methods that are
    finished for these; None if no method is finished for any.
    """
    best: tuple[int, dict[str, Any]] | None = None
    seeds = list(asked["seeds"])
    for count in range(len(seeds), 0, -1):
        part = asked | {"seeds": seeds[:count]}
        narrowed = page.restrict(**part)
        upgrade, shots = narrowed.expected.upgrades[0], max(narrowed.expected.shots)
        ranks = narrowed.ranks(upgrade, shots)
        done = {one.standing.info.name for one in ranks if one.standing.state == "complete"}
        if done and (best is None or len(done) > best[0]):
            best = len(done), part | {"methods": done}
    return None if best is None else best[1]


def restriction_of(plan: Plan) -> dict[str, Any]:
    """What was asked for, as ``SuitePage.restrict`` takes it, so that exactly that is shown."""
    matrix = plan.matrix
    names = {choice.name for choice in matrix.choices}
    transfers = {choice.transfer for choice in matrix.choices}
    drawn = dict(tasks=matrix.tasks, seeds=matrix.seeds, shots=matrix.shots)
    return drawn | dict(methods=names, transfers=transfers)
