"""What a run prints where there is no terminal: short, and without escape codes."""

from __future__ import annotations

import io

from rich.console import Console

from compatbench.cli.progress import RunProgress
from compatbench.data.cards import TrainingCard
from compatbench.engine.cell import Cell
from compatbench.engine.execute.compute import Event


def make_cells(count: int) -> list[Cell]:
    training = TrainingCard.model_validate({})
    return [
        Cell(f"key{i}", f"key{i}", "coop", {}, "task", 4, i, ("a", "b"), ("task",), training)
        for i in range(count)
    ]


def test_a_log_gets_one_line_for_every_tenth() -> None:
    out = io.StringIO()
    cells = make_cells(40)
    with RunProgress(Console(file=out)) as progress:
        progress.begin(cells, 2, lambda cell: 1.0)
        for cell in cells:
            progress.on_event(Event("started", cell))
            progress.on_event(Event("measured", cell))
            progress.on_event(Event("finished", cell))
    lines = out.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("4 of 40 cells, about ")
    assert lines[-1] == "40 of 40 cells"


def test_a_failure_is_told_at_once_and_kept() -> None:
    out = io.StringIO()
    [cell] = make_cells(1)
    with RunProgress(Console(file=out, width=200)) as progress:
        progress.begin([cell], 1, lambda cell: 1.0)
        progress.on_event(Event("started", cell))
        progress.on_event(Event("finished", cell, error="RuntimeError: [bold]no luck"))
    assert "failed coop · task · 4 shots · seed 0: RuntimeError: [bold]no luck" in out.getvalue()


def test_the_first_cells_load_libraries_and_do_not_slow_the_estimate() -> None:
    now = 0.0
    cells = make_cells(4)
    progress = RunProgress(Console(file=io.StringIO(), get_time=lambda: now))
    progress.begin(cells, 1, lambda cell: 1.0)
    for cell, end, left in zip(cells, (20.0, 80.0), (3.0, 2 * 40.0), strict=False):
        progress.on_event(Event("started", cell))
        now = end
        progress.on_event(Event("finished", cell))
        assert progress.seconds_left() == left
