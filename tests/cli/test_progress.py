"""What a run prints where there is no terminal: short, and without escape codes."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

from rich.console import Console
from rich.text import Text

from compatbench.cli.progress import RunProgress
from compatbench.data.cards import TrainingCard
from compatbench.engine.cell import Cell
from compatbench.engine.execute.events import Event


def make_cells(count: int) -> list[Cell]:
    training = TrainingCard.model_validate({})
    return [
        Cell(f"key{i}", f"key{i}", "coop", {}, "task", 4, i, ("a", "b"), ("task",), (), training)
        for i in range(count)
    ]


def start(progress: RunProgress, cells: list[Cell], workers: int) -> None:
    """Begins to follow cells that are expected to take ten seconds each."""
    estimate = SimpleNamespace(cell=lambda cell: 10.0)
    progress.start_plan(SimpleNamespace(to_do=cells, estimate=estimate), workers)


def test_a_log_gets_one_line_for_every_tenth_and_one_for_every_failure() -> None:
    out = io.StringIO()
    cells = make_cells(40)
    with RunProgress(Console(file=out, width=200)) as progress:
        start(progress, cells, 2)
        for cell in cells:
            progress.on_event(Event("started", cell))
            progress.on_event(Event("measured", cell))
            error = "RuntimeError: [bold]no luck" if cell == cells[7] else ""
            progress.on_event(Event("finished", cell, error=error))
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("4 of 40 cells, about ")
    assert lines[-1] == "40 of 40 cells"
    assert lines.pop(1) == "failed coop · task · 4 shots · seed 7: RuntimeError: [bold]no luck"
    assert len(lines) == 10


def test_the_time_left_follows_the_pace_of_this_run() -> None:
    now, cells = 0.0, make_cells(6)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.get_time = lambda: now
    start(progress, cells, 2)
    assert progress.seconds_left() == 6 * 10 / 2
    # The first is as quick as expected, a single slow one changes little, most decide.
    for cell, took, left in zip(cells, (10, 900, 30, 30), (50, 40, 3 * 30, 2 * 30), strict=False):
        progress.on_event(Event("started", cell))
        now += took
        progress.on_event(Event("finished", cell))
        assert progress.seconds_left() == left / 2


def test_images_are_encoded_once_for_a_task_and_counted_for_tasks_to_come() -> None:
    now, cells = 0.0, make_cells(4)
    cells[2:] = [replace(cell, task="other") for cell in cells[2:]]
    progress = RunProgress(Console(file=io.StringIO()))
    progress.get_time = lambda: now
    start(progress, cells, 1)
    for cell, took, left in zip(cells, (70, 10), (3 * 10 + 60, 2 * 10 + 60), strict=False):
        progress.on_event(Event("started", cell))
        if took > 10:
            progress.on_event(Event("encoding", cell, (8, 64)))
        now += took
        progress.on_event(Event("finished", cell))
        assert progress.seconds_left() == left


def test_a_display_of_80_columns_cuts_nothing() -> None:
    out, now, cells = io.StringIO(), 0.0, make_cells(540)
    cells[0] = replace(
        cells[0], method="wise_ft_weights", task="mini-layouts", transfer="retrained+4"
    )
    console = Console(file=out, width=80, force_terminal=True, legacy_windows=False)
    progress = RunProgress(console)
    progress.get_time = lambda: now
    start(progress, cells, 2)
    for cell in cells[1:3]:
        progress.on_event(Event("started", cell))
        now += 25
        progress.on_event(Event("finished", cell))
    progress.on_event(Event("started", cells[0]))
    progress.on_event(Event("encoding", cells[0], (3_000, 12_000)))
    with console.capture() as shown:
        console.print(progress.get_renderable())
    text = Text.from_ansi(shown.get()).plain
    assert "…" not in text
    words = " ".join(text.split())
    assert "2/540 cells, about 1 h 52 min left" in words
    assert f"0/2 {cells[0]}, 3,000 of 12,000 images" in words.replace("- ", "-")
    assert max(map(len, text.splitlines())) <= 80
