"""What is shown of a run: on a terminal, in a notebook, and in a log, which is short."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import IPython.display
import pytest
from rich.console import Console
from rich.text import Text

from compatbench.data.cards import TrainingCard
from compatbench.engine.cell import Cell
from compatbench.engine.execute.events import Event
from compatbench.runs import progress as runs_progress
from compatbench.runs.progress import RunProgress, show_progress


def make_cells(count: int) -> list[Cell]:
    training, pair = TrainingCard.model_validate({}), ("a", "b")
    return [
        Cell(key, key, "coop", "coop", {}, "task", 4, i, pair, ("task",), (), training)
        for i, key in enumerate(f"key{i}" for i in range(count))
    ]


def plan_of(cells: list[Cell]) -> Any:
    """A plan of cells that are expected to take ten seconds each."""
    pace = SimpleNamespace(seconds=lambda cell: 10.0)
    return SimpleNamespace(to_do=cells, pace=pace)


def tell(progress: RunProgress, cell: Cell, *kinds: Any, **more: Any) -> None:
    for kind in kinds:
        progress.on_event(Event(kind, cell, **more))


def test_a_log_gets_one_line_for_every_tenth_and_one_for_every_failure() -> None:
    out = io.StringIO()
    cells = make_cells(40)
    with RunProgress(Console(file=out, width=200)) as progress:
        progress.start_plan(plan_of(cells), 2)
        for cell in cells:
            tell(progress, cell, "started", "measured")
            error = "RuntimeError: [bold]no luck" if cell == cells[7] else ""
            tell(progress, cell, "finished", error=error)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("4 of 40 cells, about ")
    assert lines[-1] == "40 of 40 cells"
    assert lines.pop(1) == "failed coop · task · 4 shots · seed 7: RuntimeError: [bold]no luck"
    assert len(lines) == 10


def test_the_time_left_follows_the_pace_of_this_run() -> None:
    now, cells = 0.0, make_cells(6)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.get_time = lambda: now
    progress.start_plan(plan_of(cells), 2)
    assert progress.seconds_left() == 6 * 10 / 2
    # The first is as quick as expected, a single slow one changes little, most decide.
    for cell, took, left in zip(cells, (10, 900, 30, 30), (50, 40, 3 * 30, 2 * 30), strict=False):
        tell(progress, cell, "started")
        now += took
        tell(progress, cell, "finished")
        assert progress.seconds_left() == left / 2


def test_images_are_encoded_once_for_a_task_and_counted_for_tasks_to_come() -> None:
    now, cells = 0.0, make_cells(4)
    cells[2:] = [replace(cell, task="other") for cell in cells[2:]]
    progress = RunProgress(Console(file=io.StringIO()))
    progress.get_time = lambda: now
    progress.start_plan(plan_of(cells), 1)
    for cell, took, left in zip(cells, (70, 10), (3 * 10 + 60, 2 * 10 + 60), strict=False):
        tell(progress, cell, "started")
        if took > 10:
            progress.on_event(Event("encoding", cell, (8, 64)))
        now += took
        tell(progress, cell, "finished")
        assert progress.seconds_left() == left


def test_a_display_of_80_columns_cuts_nothing() -> None:
    out, now, cells = io.StringIO(), 0.0, make_cells(540)
    cells[0] = replace(
        cells[0], name="wise_ft_weights", task="mini-layouts", transfer="retrained+4"
    )
    console = Console(file=out, width=80, force_terminal=True, legacy_windows=False)
    progress = RunProgress(console)
    progress.get_time = lambda: now
    progress.start_plan(plan_of(cells), 2)
    for cell in cells[1:3]:
        tell(progress, cell, "started")
        now += 25
        tell(progress, cell, "finished")
    tell(progress, cells[0], "started")
    progress.on_event(Event("encoding", cells[0], (3_000, 12_000)))
    with console.capture() as shown:
        console.print(progress.get_renderable())
    text = Text.from_ansi(shown.get()).plain
    assert "…" not in text
    words = " ".join(text.split())
    assert "2/540 cells, about 1 h 52 min left" in words
    assert f"0/2 {cells[0]}, 3,000 of 12,000 images" in words.replace("- ", "-")
    assert max(map(len, text.splitlines())) <= 80


class Screen:
    """A notebook's output: what stands there after each change."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.displays = 0

    def display(self, data: dict[str, str], raw: bool, display_id: bool) -> Screen:
        assert raw
        assert display_id
        self.displays += 1
        self.update(data, raw)
        return self

    def update(self, data: dict[str, str], raw: bool) -> None:
        assert data["text/html"].startswith("<pre>")
        self.states.append(data["text/plain"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(IPython.display, "display", screen.display)
    monkeypatch.setattr(runs_progress, "NOTEBOOK_SECONDS", 0)
    return screen


def test_a_notebook_has_one_display_that_ends_as_a_line(notebook: Screen) -> None:
    cells, out = make_cells(4), io.StringIO()
    with RunProgress(Console(file=out, force_jupyter=True)) as progress:
        assert notebook.states == []  # a run with nothing to do shows nothing
        progress.start_plan(plan_of(cells), 1)
        for cell in cells[:3]:
            tell(progress, cell, "started", "measured", "finished")
    assert notebook.displays == 1
    assert "0/4" in notebook.states[0]
    assert f"1/2 {cells[1]}" in " ".join(notebook.states[5].split())
    assert "3/4 cells, about" in " ".join(notebook.states[-2].split())
    assert notebook.states[-1] == "3 of 4 cells in 1 s"
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("wanted", "place"), [(True, "log"), (False, "terminal"), (True, "terminal")]
)
def test_python_shows_a_run_where_someone_looks(
    wanted: bool, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, told = io.StringIO(), list[str]()
    stream.isatty = lambda: place == "terminal"
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    on_start = lambda plan, workers: told.append("start")  # noqa: E731
    with show_progress(wanted, None, on_start, lambda event: told.append(event.kind)) as follow:
        cells = make_cells(2)
        follow[0](plan_of(cells), 1)
        for kind in ("started", "finished"):
            follow[1](Event(kind, cells[0]))
    assert told == ["start", "started", "finished"]
    assert ("1/2" in stream.getvalue()) == (wanted and place == "terminal")
    assert (wanted and place == "terminal") or stream.getvalue() == ""


def test_news_of_a_cell_that_another_run_or_a_dead_worker_had_ends_nothing() -> None:
    out, [cell, other] = io.StringIO(), make_cells(2)
    with RunProgress(Console(file=out, width=200)) as progress:
        progress.start_plan(plan_of([cell, other]), 2)
        tell(progress, cell, "started")
        tell(progress, cell, "waiting", "waiting")  # of another worker, read after the first one's
        tell(progress, cell, "measured")
        tell(progress, cell, "retried", error="RuntimeError: killed")
        tell(progress, cell, "measured", "finished")  # its last words
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("another run of this folder")
    assert lines[1] == "trying again coop · task · 4 shots · seed 0: RuntimeError: killed"
    assert lines[2].startswith("1 of 2 cells")
    assert len(lines) == 3
