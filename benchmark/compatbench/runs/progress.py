"""The live display of a run: how far, what is at work, and the ranking as it grows."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from compatbench.data.images.dataset_files import BrokenImages
from compatbench.messages import format_seconds
from compatbench.results.collect import Looks
from compatbench.tables.console import SafeConsole

if TYPE_CHECKING:
    from compatbench.engine.cell import Cell
    from compatbench.engine.execute.events import Event
    from compatbench.engine.plan import Plan
    from compatbench.tables.suite_page import SuitePage

OnStart = Callable[["Plan", int], object]
OnEvent = Callable[["Event"], object]
RANKING_SECONDS, STILL_SECONDS = 5.0, 25.0  # between two looks at the ranking, at least and at most
PRIOR_SECONDS = 5.0  # for which a run is taken to be as quick as it is expected to be
NOTEBOOK_SECONDS = 0.5  # between two states of a notebook's display


@contextmanager
def show_progress(
    wanted: bool, out: Path | None, on_start: OnStart, on_event: OnEvent
) -> Iterator[tuple[OnStart, OnEvent]]:
    """The two callbacks of a run, which also show it, in a notebook or on a terminal.

    Nothing is shown if it is not wanted, or where the stream of errors is neither.
    """
    console = SafeConsole(highlight=False, stderr=True)
    if not wanted or not (console.is_jupyter or console.is_terminal):
        yield on_start, on_event
        return

    def start(plan: Plan, workers: int) -> None:
        progress.start_plan(plan, workers)
        on_start(plan, workers)

    def note(event: Event) -> None:
        progress.on_event(event)
        on_event(event)

    with RunProgress(console, out) as progress:
        yield start, note


class RunProgress(Progress):
    """Follows the events of a run.

    On a terminal and in a notebook it is a bar for the run and for each cell at work, and the
    ranking so far; a notebook keeps a line of it. Elsewhere, it is one line for every tenth of the
    run, so that a log stays short. Without ``out``, which has ``results/``, no ranking is shown.
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
        self._notebook = NotebookDisplay(console.width) if console.is_jupyter else None
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

    def start_plan(self, plan: Plan, workers: int) -> None:
        """Begins to show the cells of a plan, and the ranking of its suite."""
        self.plan, self._workers = plan, max(workers, 1)
        self._left = {cell.key: (plan.pace.seconds(cell), cell.task) for cell in plan.to_do}
        self.update(self._cells, description="cells", total=len(self._left))
        self._show_in_notebook()

    def stop(self) -> None:
        """Ends the display."""
        super().stop()
        if self._notebook is not None and (total := self._tasks[self._cells].total):
            took = format_seconds(self._tasks[self._cells].elapsed or 0.0)
            self._notebook.show(f"{total - len(self._left):.0f} of {total:.0f} cells in {took}")

    def _show_in_notebook(self) -> None:
        if self._notebook is not None and self._left:
            self._notebook.show_at_times(self.get_renderable)

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
            # The last words of a worker may be read after its death.
            if key in self._running:
                self.update(self._running[key], advance=event.kind == "measured", rest=rest)
        elif event.kind == "waiting":
            self._say_once(
                "another run of this folder has started some of these cells; waiting for them"
            )
        else:
            self._end_attempt(event)
        self._show_in_notebook()

    def _end_attempt(self, event: Event) -> None:
        # Not running here, if another process has run it meanwhile.
        if (task := self._running.pop(event.cell.key, None)) is not None:
            self.remove_task(task)
        if event.error.startswith(BrokenImages.__name__):
            why = escape(event.error.partition(": ")[2])
            self._say_once(f"[red]broken[/] images of {event.cell.task}: {why}")
        elif event.error:
            what = "[red]failed" if event.kind == "finished" else "[yellow]trying again"
            self._say(f"{what}[/] {escape(str(event.cell))}: {escape(event.error)}")
        if event.kind != "finished":
            return
        expected, _ = self._left.pop(event.cell.key, (0.0, ""))
        self._pace.end(event.cell, self.get_time(), expected)
        total = int(self._tasks[self._cells].total or 0)
        done = total - len(self._left)
        rest = f", about {format_seconds(self.seconds_left())} left" if self._left else ""
        self.update(self._cells, completed=done, rest=rest)
        if self.console.is_terminal or self._notebook is not None:
            return
        if done * 10 // total > self._tenths:
            self._tenths = done * 10 // total
            self._say(f"{done} of {total} cells{rest}")

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

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


class NotebookDisplay:
    """What a cell of a notebook shows, and is replaced in place.

    Rich's own display needs ipywidgets, which few environments have.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._handle: Any = None
        self._next = 0.0

    def show_at_times(self, get_renderable: Callable[[], RenderableType]) -> None:
        """Shows what it is given, unless the last state was shown a moment ago."""
        if time.monotonic() >= self._next:
            self.show(get_renderable())
            self._next = time.monotonic() + NOTEBOOK_SECONDS

    def show(self, renderable: RenderableType) -> None:
        """Shows it in place of the last state."""
        from IPython.display import display  # a notebook has it

        page = SafeConsole(
            file=io.StringIO(), record=True, width=self._width, force_jupyter=False, highlight=False
        )
        page.print(renderable)
        shown = {
            "text/plain": page.export_text(clear=False).rstrip(),
            "text/html": page.export_html(code_format="<pre>{code}</pre>", inline_styles=True),
        }
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


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
        standing.info.name: {task for task, h in standing.by_task("h").items() if h is not None}
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
    return ", ".join([part.results.methods_in_words, *parts])
