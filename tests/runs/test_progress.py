"""The display of a run: on a terminal, in a notebook, and in a log, which is short."""

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
    training = TrainingCard.model_validate({})
    cells = []
    for seed in range(count):
        cell = Cell(
            key=f"key{seed}",
            fit_key=f"key{seed}",
            name="coop",
            method="coop",
            config={},
            task="task",
            shots=4,
            seed=seed,
            backbones=("a", "b"),
            test_sets=("task",),
            places=(),
            training=training,
        )
        cells.append(cell)
    return cells


def plan_of(cells: list[Cell]) -> Any:
    """Return a plan of cells that are expected to take ten seconds each."""
    pace = SimpleNamespace(seconds=lambda cell: 10.0)
    return SimpleNamespace(to_do=cells, pace=pace)


def tell(progress: RunProgress, cell: Cell, *kinds: Any, **more: Any) -> None:
    for kind in kinds:
        progress.on_event(Event(kind, cell, **more))


def test_a_log_has_a_line_for_every_tenth_and_every_failure() -> None:
    out = io.StringIO()
    cells = make_cells(40)
    with RunProgress(Console(file=out, width=200)) as progress:
        progress.start_plan(plan_of(cells), 2)
        for cell in cells:
            tell(progress, cell, "started", "measured")
            error = "RuntimeError: [bold]no luck" if cell == cells[7] else ""
            tell(progress, cell, "finished", error=error)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("4 of 40 cells in 1 s, about ")
    assert lines[-1] == "40 of 40 cells in 1 s"
    assert lines.pop(1) == "failed coop · task · 4 shots · seed 7: RuntimeError: [bold]no luck"
    assert len(lines) == 10


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runs_progress.time, "monotonic", clock)
    return clock


def run_cell(progress: RunProgress, cell: Cell, clock: Clock, took: float) -> None:
    tell(progress, cell, "started")
    clock.now += took
    tell(progress, cell, "finished")


def test_the_time_left_follows_the_throughput_of_the_last_minute(clock: Clock) -> None:
    """Cells that are expected to take ten seconds take five, and later twenty."""
    cells = make_cells(100)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan_of(cells), 1)
    assert progress.seconds_left() is None
    for cell in cells[:20]:
        run_cell(progress, cell, clock, 5)
    assert progress.seconds_left() == pytest.approx(80 * 5)
    for cell in cells[20:26]:
        run_cell(progress, cell, clock, 20)
    assert progress.seconds_left() == pytest.approx(74 * 20)


def test_cheap_cells_that_encode_images_do_not_make_the_others_long(clock: Clock) -> None:
    """Twenty cells of 0.2 s take three, because of the images; the others take as expected."""
    cells = make_cells(60)
    plan = plan_of(cells)
    plan.pace.seconds = lambda cell: 0.2 if cell in cells[:20] else 30.0
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan, 1)
    for cell in cells[:20]:
        run_cell(progress, cell, clock, 3)
    assert progress.seconds_left() == pytest.approx(40 * (30 + 2.8))


def test_a_slower_machine_is_noticed(clock: Clock) -> None:
    cells = make_cells(60)
    plan = plan_of(cells)
    plan.pace.seconds = lambda cell: float(1 + cells.index(cell) % 5)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan, 1)
    for number, cell in enumerate(cells[:30]):
        run_cell(progress, cell, clock, 3 * (1 + number % 5))
    assert progress.seconds_left() == pytest.approx(3 * sum(range(1, 6)) * 6, rel=0.1)


def test_cells_of_more_than_a_minute_have_a_throughput(clock: Clock) -> None:
    cells = make_cells(10)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan_of(cells), 1)
    for cell in cells[:3]:
        run_cell(progress, cell, clock, 300)
    assert progress.seconds_left() == pytest.approx(7 * 300)


def test_the_time_left_is_at_least_that_of_the_longest_running_cell(clock: Clock) -> None:
    cells = make_cells(12)
    plan = plan_of(cells)
    plan.pace.seconds = lambda cell: 100.0 if cell == cells[0] else 1.0
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan, 4)
    tell(progress, cells[0], "started")
    for cell in cells[1:]:
        run_cell(progress, cell, clock, 1)
    assert progress.seconds_left() == pytest.approx(100 - 11)


def test_a_cell_that_takes_long_is_never_about_to_end(clock: Clock) -> None:
    """The last cell was expected to take as long as the others, and runs for seven minutes."""
    cells = make_cells(5)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan_of(cells), 1)
    for cell in cells[:4]:
        run_cell(progress, cell, clock, 1)
    tell(progress, cells[4], "started")
    clock.now += 420
    left = progress.seconds_left()
    assert left is not None
    assert left > 60


def test_the_time_left_is_steady_when_equal_cells_end_in_groups(clock: Clock) -> None:
    """Four workers end their cells of 40 s at almost the same moment."""
    cells = make_cells(80)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan_of(cells), 4)
    shown = []
    for group in range(0, 40, 4):
        tell(progress, cells[group], "started")
        tell(progress, cells[group + 1], "started")
        tell(progress, cells[group + 2], "started")
        tell(progress, cells[group + 3], "started")
        for _ in range(4):
            clock.now += 10
            left = progress.seconds_left()
            if left is not None:
                shown.append(left + clock.now)
        for cell in cells[group : group + 4]:
            tell(progress, cell, "finished")
    # The moment at which the run is expected to end does not move.
    assert max(shown) - min(shown) < 1


def test_cells_of_another_run_do_not_count_as_throughput(clock: Clock) -> None:
    cells = make_cells(5)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan_of(cells), 1)
    for cell in cells[:2]:
        tell(progress, cell, "waiting", "finished")
        clock.now += 1
    assert progress.seconds_left() is None
    for cell in cells[2:4]:
        run_cell(progress, cell, clock, 10)
    assert progress.seconds_left() == pytest.approx(10)


def test_cells_that_load_the_models_do_not_count_as_throughput(clock: Clock) -> None:
    cells = make_cells(10)
    progress = RunProgress(Console(file=io.StringIO()))
    progress.start_plan(plan_of(cells), 1)
    run_cell(progress, cells[0], clock, 300)
    assert progress.seconds_left() is None
    run_cell(progress, cells[1], clock, 2)
    assert progress.seconds_left() == pytest.approx(8 * 2)


def test_a_display_of_80_columns_cuts_nothing(clock: Clock) -> None:
    cells = make_cells(540)
    cells[0] = replace(
        cells[0], name="wise_ft_weights", task="mini-layouts", transfer="retrained+4"
    )
    console = Console(file=io.StringIO(), width=80, force_terminal=True, legacy_windows=False)
    progress = RunProgress(console)
    progress.start_plan(plan_of(cells), 2)
    for cell in cells[1:4]:
        run_cell(progress, cell, clock, 25)
    for cell in [cells[0], *cells[4:13]]:
        tell(progress, cell, "started")
    progress.on_event(Event("encoding", cells[0], (3_000, 12_000)))
    with console.capture() as shown:
        console.print(progress._render())
    text = Text.from_ansi(shown.get()).plain
    assert "…" not in text
    words = " ".join(text.split())
    assert "3 of 540 cells in 75 s, about 1 h 52 min left" in words
    assert f"{cells[0]}, 3,000 of 12,000 images" in words.replace("- ", "-")
    assert "and 2 more" in words
    assert max(map(len, text.splitlines())) <= 80


class Screen:
    """The outputs of a notebook, and the text of one after each change."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.outputs = set[str]()

    def display(self, data: dict[str, str], raw: bool, display_id: str, update: bool) -> None:
        assert raw
        assert data["text/html"].startswith("<pre>")
        assert update == (display_id in self.outputs)
        self.outputs.add(display_id)
        self.states.append(data["text/plain"])


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(IPython.display, "display", screen.display)
    monkeypatch.setattr(runs_progress, "REST_SECONDS", 0)
    return screen


def test_a_notebook_has_one_output_that_ends_as_a_line(notebook: Screen, clock: Clock) -> None:
    cells = make_cells(4)
    out = io.StringIO()
    with RunProgress(Console(file=out, force_jupyter=True)) as progress:
        assert notebook.states == []  # a run with nothing to do shows nothing
        progress.start_plan(plan_of(cells), 1)
        for cell in cells[:3]:
            run_cell(progress, cell, clock, 1)
    assert len(notebook.outputs) == 1
    assert "0 of 4 cells in 1 s" in notebook.states[0]
    assert str(cells[1]) in notebook.states[3]
    assert "3 of 4 cells in 3 s, about 1 s left" in notebook.states[-2]
    assert notebook.states[-1] == "3 of 4 cells in 3 s"
    assert out.getvalue() == ""


@pytest.mark.parametrize(
    ("enabled", "place"), [(True, "log"), (False, "terminal"), (True, "terminal")]
)
def test_python_shows_a_run_on_terminals_unless_disabled(
    enabled: bool, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    seen: list[str] = []
    stream.isatty = lambda: place == "terminal"
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setenv("TERM", "xterm")

    def on_start(plan: Any, workers: int) -> None:
        seen.append("start")

    def on_event(event: Event) -> None:
        seen.append(event.kind)

    with show_progress(enabled, None, on_start, on_event) as (start, follow):
        cells = make_cells(2)
        start(plan_of(cells), 1)
        follow(Event("started", cells[0]))
        follow(Event("finished", cells[0]))
    assert seen == ["start", "started", "finished"]
    if enabled and place == "terminal":
        assert "1 of 2 cells" in stream.getvalue()
    else:
        assert stream.getvalue() == ""


def test_waiting_is_printed_once_and_every_retry_is_printed() -> None:
    out = io.StringIO()
    cell, other = make_cells(2)
    with RunProgress(Console(file=out, width=200)) as progress:
        progress.start_plan(plan_of([cell, other]), 2)
        tell(progress, other, "waiting")
        tell(progress, cell, "waiting", "started", "measured")
        tell(progress, cell, "retried", error="WorkerDied: killed")
        tell(progress, cell, "started", "measured", "finished")
    assert out.getvalue().splitlines() == [
        "another run of this folder has started some of these cells; waiting",
        "trying again coop · task · 4 shots · seed 0: WorkerDied: killed",
        "1 of 2 cells in 1 s",
    ]
