"""The live display of a run: how far, what is at work, and the ranking as it grows."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from compatbench.cli.output import format_seconds, say
from compatbench.data.images.dataset_files import BrokenImages

if TYPE_CHECKING:
    from compatbench.engine.execute.events import Event
    from compatbench.engine.plan import Plan
    from compatbench.tables.suite_page import SuitePage

RANKING_SECONDS = 5.0  # between two looks at the ranking


class RunProgress(Progress):
    """Follows the events of a run.

    On a terminal it is a bar for the run and for each cell at work, and the ranking so far;
    elsewhere, one line for every tenth of the run, so that a log stays short.
    Without ``out``, the folder of ``results/``, no ranking is shown.
    """

    def __init__(self, console: Console, out: Path | None = None) -> None:
        self.plan: Plan | None = None
        self._out = out
        self._workers = 1
        self._left: dict[str, float] = {}  # expected seconds by key
        self._running: dict[str, TaskID] = {}
        self._tenths = 0
        self._said: set[str] = set()  # what is said once
        self._ranking: RenderableType = Text()
        self._rank_at = 0.0
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=8),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rest]}"),
            console=console,
            refresh_per_second=2,
            speed_estimate_period=1800,
            transient=True,
            disable=not console.is_terminal,
        )
        self._cells = self.add_task("reading the suite and the methods", total=None, rest="")
        self._seconds = self.add_task("expected seconds", visible=False, rest="")

    def announce_plan(self, plan: Plan, workers: int) -> None:
        """Says what is planned, and begins to show it."""
        say_plan(plan, workers)
        self.start_plan(plan, workers)

    def start_plan(self, plan: Plan, workers: int) -> None:
        """Begins to show the cells of a plan, and the ranking of its suite."""
        self.plan, self._workers = plan, max(workers, 1)
        self._left = {cell.key: plan.estimate.cell(cell) for cell in plan.to_do}
        self.update(self._cells, description="cells", total=len(self._left))
        self.update(self._seconds, total=sum(self._left.values()))

    def on_event(self, event: Event) -> None:
        """Notes an event and draws."""
        cell, key = event.cell, event.cell.key
        if event.kind == "started":
            records = len(cell.backbones) * len(cell.test_sets)
            self._running[key] = self.add_task(str(cell), total=records, rest="")
        elif event.kind in ("encoding", "measured"):
            done, total = event.encoded
            rest = f"{done:,} of {total:,} images" if done < total else ""
            self.update(self._running[key], advance=event.kind == "measured", rest=rest)
        else:
            self._end_attempt(event)

    def _end_attempt(self, event: Event) -> None:
        # Not running here, if another process has run it meanwhile.
        if (task := self._running.pop(event.cell.key, None)) is not None:
            self.remove_task(task)
        line = ""
        if event.kind == "waiting":
            line = "another run of this folder has started some of these cells; waiting for them"
        elif event.error.startswith(BrokenImages.__name__):
            why = escape(event.error.partition(": ")[2])
            line = f"[red]broken[/] images of {event.cell.task}: {why}"
        elif event.error:
            what = "[red]failed" if event.kind == "finished" else "[yellow]trying again"
            say(f"{what}[/] {escape(str(event.cell))}: {escape(event.error)}", self.console)
        if line and line not in self._said:
            self._said.add(line)
            say(line, self.console)
        if event.kind != "finished":
            return
        self.advance(self._seconds, self._left.pop(event.cell.key, 0.0))
        total = int(self._tasks[self._cells].total or 0)
        done = total - len(self._left)
        rest = f"about {format_seconds(self.seconds_left())} left" if self._left else ""
        self.update(self._cells, completed=done, rest=rest)
        if not self.console.is_terminal and done * 10 // total > self._tenths:
            self._tenths = done * 10 // total
            say(f"{done} of {total} cells" + (f", {rest}" if rest else ""), self.console)

    def seconds_left(self) -> float:
        """What is counted, or as long as it takes at the pace since the first cell was finished."""
        counted = sum(self._left.values()) / self._workers
        return self._tasks[self._seconds].time_remaining or counted

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, and the ranking, which is cut at its foot where the terminal ends."""
        if self.plan is not None and self._out is not None and time.monotonic() >= self._rank_at:
            self._update_ranking(self.plan, self._out)
        yield from super().get_renderables()
        yield self._ranking

    def _update_ranking(self, plan: Plan, out: Path) -> None:
        from compatbench.results.collect import measured_so_far
        from compatbench.tables.suite_page import read_suite_page
        from compatbench.tables.terminal_ranking import render_ranking

        now = time.monotonic()
        measured = measured_so_far(plan)
        page = read_suite_page(plan.suite, out, measured)
        if (part := _largest_part(page, restriction_of(plan))) is not None:
            self._ranking = render_ranking(part, self.console.width)
        # A look at many records takes a moment: a fiftieth of the time at most.
        took = time.monotonic() - now
        self._rank_at = now + max(RANKING_SECONDS, 50 * took)


def _largest_part(page: SuitePage, asked: dict[str, Any]) -> SuitePage | None:
    """The part of what was asked for with the most methods that can be ranked already.

    Seeds are run one after the other, so it has the first seeds, and the methods that are
    finished for these; None if no method is finished for any.
    """
    parts = []
    for count in range(len(asked["seeds"]), 0, -1):
        part = asked | {"seeds": asked["seeds"][:count]}
        narrowed = page.restrict(**part)
        ranks = narrowed.ranks(narrowed.expected.upgrades[0], max(narrowed.expected.shots))
        done = {one.standing.info.name for one in ranks if one.standing.state == "complete"}
        parts.append(part | {"methods": done})
    most = max(parts, key=lambda part: len(part["methods"]))
    return page.restrict(**most) if most["methods"] else None


def restriction_of(plan: Plan) -> dict[str, Any]:
    """What was asked for, as ``SuitePage.restrict`` takes it, so that exactly that is shown."""
    matrix = plan.matrix
    return {
        "tasks": matrix.tasks,
        "seeds": matrix.seeds,
        "shots": matrix.shots,
        "methods": {choice.name for choice in matrix.choices},
        "transfers": {choice.transfer for choice in matrix.choices},
    }


def say_plan(plan: Plan, workers: int) -> None:
    """What cannot be loaded or is not here, and why; then how much of the suite is left."""
    for name, why in plan.matrix.registry.broken.items():
        say(f"[yellow]left out[/] method '{escape(name)}', which cannot be loaded: {escape(why)}")
    for name, why in plan.missing.test_sets.items():
        if name not in plan.missing.broken:
            say(f"[yellow]missing[/] images of {escape(name)}: {escape(why)}")
    for name, why in dict.fromkeys((cell.test_sets[0], cell.broken) for cell in plan.broken):
        say(f"[red]broken[/] images of {escape(name)}: {escape(why)}")
    for name, why in plan.missing.backbones.items():
        say(f"[yellow]missing[/] weights of {escape(name)}: {escape(why)}")
    left, mine, total = len(plan.to_do), len(plan.mine), plan.total
    done, what = mine - left, ""
    if plan.shard is not None:
        what = f" of {len(plan.cells):,} in this shard"
    parts = [f"[bold]{plan.suite.name}[/]: {total:,} cell{'s' if total != 1 else ''}{what}"]
    parts.append("all done" if done == total else f"{done:,} done, {left:,} to do")
    if total > mine:
        parts.append(f"{total - mine:,} without images or weights")
    if workers and done < total:
        many = f"{workers} worker{'s' if workers > 1 else ''}"
        parts.append(f"about {format_seconds(plan.seconds / workers)} with {many}")
    say(", ".join(parts))
