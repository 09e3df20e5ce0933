"""The live display of a run: how far, what is at work, and the ranking as it grows."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from compatbench.cli.output import format_seconds, say
from compatbench.data.images.dataset_files import BrokenImages
from compatbench.messages import count
from compatbench.results.collect import Looks

if TYPE_CHECKING:
    from compatbench.engine.cell import Cell
    from compatbench.engine.execute.events import Event
    from compatbench.engine.plan import Plan
    from compatbench.tables.suite_page import SuitePage

RANKING_SECONDS, STILL_SECONDS = 5.0, 25.0  # between two looks at the ranking, at least and at most
PRIOR_SECONDS = 5.0  # for which a run is taken to be as quick as it is expected to be


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
        self._left: dict[str, tuple[float, str]] = {}  # expected seconds and task by key
        self._running: dict[str, TaskID] = {}
        self._pace = Pace()
        self._tenths = 0
        self._said: set[str] = set()  # what is said once
        self._ranking: RenderableType = Text()
        self._rank_at, self._looks = 0.0, Looks()
        super().__init__(
            BarColumn(bar_width=8, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            # Last, so that what is longer than the terminal is wide goes on below.
            TextColumn(
                "{task.description}{task.fields[rest]}",
                markup=False,
                table_column=Column(overflow="fold"),
            ),
            console=console,
            refresh_per_second=2,
            transient=True,
            disable=not console.is_terminal,
        )
        self._cells = self.add_task("reading the suite and the methods", total=None, rest="")

    def announce_plan(self, plan: Plan, workers: int) -> None:
        """Says what is planned, and begins to show it."""
        say_plan(plan, workers)
        self.start_plan(plan, workers)

    def start_plan(self, plan: Plan, workers: int) -> None:
        """Begins to show the cells of a plan, and the ranking of its suite."""
        self.plan, self._workers = plan, max(workers, 1)
        self._left = {cell.key: (plan.estimate.cell(cell), cell.task) for cell in plan.to_do}
        self.update(self._cells, description="cells", total=len(self._left))

    def on_event(self, event: Event) -> None:
        """Notes an event and draws."""
        cell, key = event.cell, event.cell.key
        if event.kind == "started":
            records = len(cell.backbones) * len(cell.test_sets)
            self._running[key] = self.add_task(str(cell), total=records, rest="")
            self._pace.start(key, self.get_time())
        elif event.kind in ("encoding", "measured"):
            done, total = event.encoded
            self._pace.encodes.update({key} if event.kind == "encoding" else ())
            rest = f", {done:,} of {total:,} images" if done < total else ""
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
        expected, _ = self._left.pop(event.cell.key, (0.0, ""))
        self._pace.end(event.cell, self.get_time(), expected)
        total = int(self._tasks[self._cells].total or 0)
        done = total - len(self._left)
        rest = f", about {format_seconds(self.seconds_left())} left" if self._left else ""
        self.update(self._cells, completed=done, rest=rest)
        if not self.console.is_terminal and done * 10 // total > self._tenths:
            self._tenths = done * 10 // total
            say(f"{done} of {total} cells{rest}", self.console)

    def seconds_left(self) -> float:
        """What is left at the pace of this run."""
        seconds = sum(expected for expected, _ in self._left.values())
        return self._pace.left(seconds, {task for _, task in self._left.values()}) / self._workers

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

        before = time.thread_time()
        page = read_suite_page(plan.suite, out, measured_so_far(plan, self._looks))
        page = page.restrict(**plan.matrix.asked)
        if (part := finished_part(page)) is not None:
            ranked = render_ranking(part, self.console.width)
            self._ranking = Group(Text(_say_left(page, part)), ranked)
        # Looks take a twentieth of a processor, or more if the ranking would stand still.
        wait = 20 * (time.thread_time() - before)
        self._rank_at = time.monotonic() + min(max(wait, RANKING_SECONDS), STILL_SECONDS)


class Pace:
    """How long cells take in this run, as a multiple of what they were expected to take.

    It is the median over the cells that have ended, each with the weight of its expected seconds.
    Where a cell had to encode images, which is done once for all methods, that is counted apart.
    """

    def __init__(self) -> None:
        self.encodes = set[str]()  # keys
        self._started: dict[str, float] = {}
        self._measured = [(1.0, PRIOR_SECONDS)]  # pace and weight
        self._encoding: dict[str, float] = {}  # seconds, by task

    def start(self, key: str, now: float) -> None:
        self._started[key] = now

    def end(self, cell: Cell, now: float, expected: float) -> None:
        took = now - self._started.pop(cell.key, now)
        encoding = self._encoding.setdefault(cell.task, 0.0)
        if cell.key in self.encodes:
            self._encoding[cell.task] = encoding + max(took - self.value * expected, 0.0)
        elif took and expected:
            self._measured.append((took / expected, expected))

    @property
    def value(self) -> float:
        """The weighted median."""
        measured = sorted(self._measured)
        sums = list(accumulate(weight for _, weight in measured))
        middle = next(place for place, end in enumerate(sums) if 2 * end >= sums[-1])
        return measured[middle][0]

    def left(self, expected: float, tasks: Collection[str]) -> float:
        """Seconds that cells of these tasks take, with the encoding for tasks that are new."""
        known = self._encoding.values()
        new = sum(task not in self._encoding for task in tasks)
        return self.value * expected + (new * sum(known) / len(known) if known else 0.0)


def finished_part(page: SuitePage) -> SuitePage | None:
    """The part of a page in which every method that is shown has finished every task.

    It has at least half of the tasks as soon as a method has so many, and then as many methods as
    possible, of the first seeds; before, methods times tasks are as many as possible. None if no
    method has finished any task.
    """
    expected, parts = page.expected, dict[tuple[Any, ...], dict[str, Any]]()
    for last in range(1, len(expected.seeds) + 1):
        seeds = expected.seeds[:last]
        tasks_of = tasks_finished(page.restrict(seeds=seeds))
        for least in range(1, len(expected.tasks) + 1):
            many = [done for done in tasks_of.values() if len(done) >= least]
            tasks = [task for task in expected.tasks if all(task in done for done in many)]
            methods = {name for name, done in tasks_of.items() if done.issuperset(tasks)}
            if many and tasks:
                enough = 2 * len(tasks) >= len(expected.tasks)
                size = len(methods) if enough else len(methods) * len(tasks)
                order = enough, size, len(tasks), len(seeds)
                parts[order] = {"methods": methods, "tasks": tasks, "seeds": seeds}
    return page.restrict(**parts[max(parts)]) if parts else None


def tasks_finished(page: SuitePage) -> dict[str, set[str]]:
    """The tasks on which a method has H for all seeds, of those that can be ranked."""
    expected = page.expected
    ranks = page.ranks(expected.upgrades[0], max(expected.shots))
    standings = [ranked.standing for ranked in ranks]
    return {
        standing.info.name: {task for task in standing.tasks if standing.mean("h", task)}
        for standing in standings
        if standing.state in ("complete", "incomplete")
    }


def _say_left(page: SuitePage, part: SuitePage) -> str:
    """How many methods are ranked, and how far the others are: ``coop 3/7, maple 1/7``."""
    names = {result.info.name for result in part.results.methods.values()}
    first = page.restrict(seeds=page.expected.seeds[:1])
    others = {n: len(done) for n, done in tasks_finished(first).items() if n not in names and done}
    far = sorted(others.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{name} {done}/{len(page.expected.tasks)}" for name, done in far]
    return ", ".join([count(len(names), "method"), *parts])


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
