"""The live display of a run: a bar with the time left, what is running, and the ranking so far."""

from __future__ import annotations

import io
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from compatbench.data.images.dataset_files import BrokenImages
from compatbench.messages import format_seconds
from compatbench.runs.ranking_so_far import RankingSoFar
from compatbench.tables.console import SafeConsole

if TYPE_CHECKING:
    from compatbench.engine.execute.events import Event
    from compatbench.engine.plan import Plan

OnStart = Callable[["Plan", int], object]
OnEvent = Callable[["Event"], object]
WINDOW_SECONDS = 60.0  # in which the throughput is measured
MAX_SHOWN = 8  # running cells
REST_SECONDS = 0.5  # between two states of a notebook's display
FIRST = TaskID(0)


@contextmanager
def show_progress(
    enabled: bool, out: Path | None, on_start: OnStart, on_event: OnEvent
) -> Iterator[tuple[OnStart, OnEvent]]:
    """Yield the two callbacks of a run that also show it, in a notebook or on a terminal.

    Nothing is shown if this is not enabled, or if the stream of errors is neither.
    """
    console = SafeConsole(highlight=False, stderr=True)
    if not enabled or not (console.is_jupyter or console.is_terminal):
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


class EndedCell(NamedTuple):
    """A cell that a worker of this run has finished."""

    end: float
    work: float  # expected seconds
    seconds: float


class Throughput:
    """Predicts how long a cell takes, from cells that have ended: a · expected seconds + b.

    A ratio alone would not do. The first cells are the cheapest ones and also encode the images, so
    each takes many times the seconds that are expected of it. Only b shows that. a is 1, unless
    cells of different size show another.

    Args:
        times: the expected and the real seconds of cells.
        usual: the expected seconds of a usual cell, which weighs a = 1 as much as two cells whose
            sizes differ by so much.
    """

    def __init__(self, times: Sequence[tuple[float, float]], usual: float) -> None:
        mean_work = sum(work for work, _ in times) / len(times)
        mean_seconds = sum(seconds for _, seconds in times) / len(times)
        spread = usual**2
        product = usual**2
        for work, seconds in times:
            spread += (work - mean_work) ** 2
            product += (work - mean_work) * (seconds - mean_seconds)
        self._slope = max(product / spread, 0.0)
        self._offset = mean_seconds - self._slope * mean_work

    def seconds(self, work: float) -> float:
        """Return the seconds of a cell of this many expected seconds."""
        return max(self._slope * work + self._offset, 0.0)


class RunProgress:
    """Follows the events of a run, and shows them.

    A terminal and a notebook have a bar, the running cells and the ranking so far. At the end, a
    notebook keeps one line. Elsewhere there is one line for every tenth of the run, so that a log
    stays short. Without ``out``, the folder of ``results/``, no ranking is shown.
    """

    def __init__(self, console: Console, out: Path | None = None) -> None:
        self.plan: Plan | None = None
        self._console = console
        self._out = out
        self._ranking: RankingSoFar | None = None
        self._workers = 1
        self._work: dict[str, float] = {}  # expected seconds of cells that have not ended, by key
        self._running: dict[str, tuple[str, float]] = {}  # text and start of running cells
        self._total = 0  # cells
        self._tenths = 0
        self._printed: set[str] = set()  # lines that are printed only once
        self._finished = 0  # cells of this run's own workers
        self._ended: deque[EndedCell] = deque()  # those that count for the throughput
        self._begin = time.monotonic()
        self._bar = Progress(
            BarColumn(16),
            TextColumn("{task.description}", markup=False),
            get_time=time.monotonic,
        )
        self._bar.add_task("reading the suite and the methods", total=None)
        self._live = Live(
            console=console, get_renderable=self._render, refresh_per_second=2, transient=True
        )
        self._shown_at: float | None = None  # in a notebook

    def __enter__(self) -> RunProgress:
        if self._console.is_terminal and not self._console.is_jupyter:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._shown_at is not None:
            self._show_in_notebook(self._count_cells())

    def start_plan(self, plan: Plan, workers: int) -> None:
        """Begin to show the cells of a plan, and the ranking of its suite."""
        self.plan = plan
        self._workers = max(workers, 1)
        self._work = {cell.key: plan.pace.seconds(cell) for cell in plan.to_do}
        self._total = len(self._work)
        self._bar.reset(FIRST, total=sum(self._work.values()))
        if self._out is not None:
            self._ranking = RankingSoFar(plan, self._out, self._console.width)
        self._show()

    def on_event(self, event: Event) -> None:
        """Note an event, and show the new state."""
        key = event.cell.key
        name = str(event.cell)
        _, start = self._running.get(key, (name, time.monotonic()))
        if event.kind in ("started", "measured"):
            self._running[key] = (name, start)
        elif event.kind == "encoding":
            done, total = event.encoded
            self._running[key] = (f"{name}, {done:,} of {total:,} images", start)
        elif event.kind == "waiting":
            self._print_once("another run of this folder has started some of these cells; waiting")
        else:
            self._print_error(event)
            is_ours = self._running.pop(key, None) is not None
            if event.kind == "finished":
                self._finish(key, start, is_ours=is_ours)
        self._show()

    def _finish(self, key: str, start: float, *, is_ours: bool) -> None:
        """Note that a cell has ended. Cells of another run do not count as throughput."""
        work = self._work.pop(key, 0.0)
        bar = self._bar.tasks[0]
        if is_ours:
            now = time.monotonic()
            self._finished += 1
            # The first cell of a worker also loads the models. It says little of the others.
            if self._finished > self._workers:
                self._ended.append(EndedCell(now, work, now - start))
            # Where a cell takes minutes, the last minute says little: keep two for each worker.
            while (
                len(self._ended) > 2 * self._workers and self._ended[0].end < now - WINDOW_SECONDS
            ):
                self._ended.popleft()
            self._bar.update(FIRST, advance=work)
        else:
            self._bar.update(FIRST, total=(bar.total or 0.0) - work)
        tenths = 10 * (self._total - len(self._work)) // max(self._total, 1)
        if tenths > self._tenths and not (self._live.is_started or self._console.is_jupyter):
            self._print(f"{self._count_cells()}{self._describe_left()}")
        self._tenths = tenths

    def seconds_left(self) -> float | None:
        """Return the time left by the throughput of the last minute; None if it is not known.

        It is never less than the running cells still need.
        """
        if not self._ended or not self._work:
            return None
        times = [(cell.work, cell.seconds) for cell in list(self._ended)]
        usual = sum(self._work.values()) / len(self._work)
        now = time.monotonic()
        running = []
        for key, (_, start) in list(self._running.items()):
            running.append((self._work.get(key, 0.0), now - start))
        # A running cell that takes longer than the ended ones predict slows the throughput.
        pace = Throughput(times, usual)
        times += [(work, elapsed) for work, elapsed in running if elapsed > pace.seconds(work)]
        pace = Throughput(times, usual)
        left = sum(pace.seconds(work) for work in list(self._work.values()))
        longest = 0.0
        for work, elapsed in running:
            whole = pace.seconds(work)
            # Nobody knows how long an overdue cell still takes: as long as it is overdue.
            still = abs(whole - elapsed)
            left += still - whole
            longest = max(longest, still)
        return max(left / self._workers, longest)

    def _count_cells(self) -> str:
        """Return how many cells have ended, and the time that the run has taken."""
        took = format_seconds(time.monotonic() - self._begin)
        return f"{self._total - len(self._work)} of {self._total} cells in {took}"

    def _describe_left(self) -> str:
        seconds = self.seconds_left()
        if seconds is None:
            return ""
        return f", about {format_seconds(seconds)} left"

    def _print_error(self, event: Event) -> None:
        if not event.error:
            return
        if event.error.startswith(BrokenImages.__name__):
            _, _, reason = event.error.partition(": ")
            self._print_once(f"[red]broken[/] images of {event.cell.task}: {escape(reason)}")
            return
        state = "[red]failed" if event.kind == "finished" else "[yellow]trying again"
        self._print(f"{state}[/] {escape(str(event.cell))}: {escape(event.error)}")

    def _print_once(self, line: str) -> None:
        if line not in self._printed:
            self._printed.add(line)
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _render(self) -> RenderableType:
        if self.plan is not None:
            text = f"{self._count_cells()}{self._describe_left()}"
            self._bar.update(FIRST, description=text)
        running = [text for text, _ in list(self._running.values())]
        if len(running) > MAX_SHOWN:
            running[MAX_SHOWN:] = [f"and {len(running) - MAX_SHOWN} more"]
        parts: list[RenderableType] = [self._bar.get_renderable()]
        for text in running:
            parts.append(Text(f"  {text}", style="dim"))
        if self._ranking is not None:
            parts.append(self._ranking.render())
        return Group(*parts)

    def _show(self) -> None:
        """Show the state in a notebook, unless the last one was shown a moment ago."""
        is_early = self._shown_at is not None and time.monotonic() < self._shown_at + REST_SECONDS
        if self._console.is_jupyter and self._total and not is_early:
            self._show_in_notebook(self._render())

    def _show_in_notebook(self, renderable: RenderableType) -> None:
        """Replace the run's output; Rich's own needs ipywidgets, which few environments have."""
        from IPython.display import display  # a notebook has it

        page = SafeConsole(
            file=io.StringIO(), record=True, width=self._console.width, force_jupyter=False
        )
        page.print(renderable)
        shown = {
            "text/plain": page.export_text(clear=False).rstrip(),
            "text/html": page.export_html(code_format="<pre>{code}</pre>", inline_styles=True),
        }
        is_new = self._shown_at is None
        display(shown, raw=True, display_id=f"compatbench-{id(self)}", update=not is_new)
        self._shown_at = time.monotonic()
