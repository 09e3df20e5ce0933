"""What a run prints where there is no terminal: short, and without escape codes."""

from __future__ import annotations

import io
from types import SimpleNamespace

from rich.console import Console

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
    """Begins to follow cells of a second each."""
    estimate = SimpleNamespace(cell=lambda cell: 1.0)
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


def test_the_pace_is_that_since_the_first_cell_which_loads_libraries() -> None:
    now = 0.0
    cells = make_cells(4)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.get_time = lambda: now
    start(progress, cells, 1)
    for cell, end, left in zip(cells, (20.0, 60.0), (3.0, 2 * 40.0), strict=False):
        progress.on_event(Event("started", cell))
        now = end
        progress.on_event(Event("finished", cell))
        assert progress.seconds_left() == left
