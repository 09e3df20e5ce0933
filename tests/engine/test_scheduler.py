"""What follows an attempt at a cell: an end, a retry, a wait or another worker; and devices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell
from compatbench.engine.execute import scheduler
from compatbench.engine.execute.cell_queue import CellQueue
from compatbench.engine.execute.device import available_devices, resolve_device
from compatbench.engine.execute.scheduler import (
    Backend,
    Message,
    Scheduler,
    WorkerHandle,
    WorkerLost,
)
from compatbench.engine.execute.settings import Event, Settings
from compatbench.engine.failures import Failure
from compatbench.engine.plan import plan_cells
from compatbench.engine.run import Compute
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method.registry import builtin_methods

Answer = Callable[[Cell], Message | None]


class Script(Backend[WorkerHandle]):
    """One worker at a time, whose attempts end as the script says; None hangs."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__()
        self.answers = list(answers)
        self.removed = 0

    def add_workers(self, waiting: int) -> None:
        if not self.workers:
            self.workers.append(WorkerHandle())

    def start_cell(self, worker: WorkerHandle, cell: Cell) -> None:
        pass

    def receive(self, seconds: float | None) -> Iterator[tuple[WorkerHandle, Message]]:
        for worker in list(self.workers):
            if worker.cell is not None:
                message = self.answers.pop(0)(worker.cell)
                if message is not None:
                    yield worker, message

    def last_frames(self, worker: WorkerHandle) -> tuple[str, ...]:
        return ("slow.py:3 in fit",)

    def remove(self, worker: WorkerHandle) -> None:
        self.removed += 1
        self.workers.remove(worker)


@pytest.fixture
def cell() -> Cell:
    [cell] = plan_cells(suite_cards.read("smoke"), builtin_methods(), ["zeroshot"])
    return cell


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "HELD_SECONDS", 0.0)
    monkeypatch.setattr(scheduler, "LOADING_SECONDS", 0.0)


def run(cell: Cell, settings: Settings, script: Script) -> list[tuple[str, str]]:
    queue = CellQueue([cell], lambda _: 1.0)
    events: list[Event] = []
    Scheduler(queue, script, settings, events.append).run()
    assert not script.answers
    return [(event.kind, event.error) for event in events]


def test_what_a_worker_reports_is_passed_on(cell: Cell, tmp_path: Path) -> None:
    script = Script(
        lambda cell: Event("started", cell),
        lambda _: "something was repaired",
        lambda cell: Event("waiting", cell),
        lambda cell: Event("finished", cell),
    )
    with pytest.warns(CompatbenchWarning, match="repaired"):
        events = run(cell, Settings(tmp_path, tmp_path), script)
    assert [kind for kind, _ in events] == ["started", "waiting", "finished"]
    mistake = Script(lambda _: CompatbenchError("change this"))
    with pytest.raises(CompatbenchError, match="change this"):
        run(cell, Settings(tmp_path, tmp_path), mistake)


def test_a_failure_is_retried_as_often_as_its_kind_allows(cell: Cell, tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path, retry={"oom": 1})
    script = Script(
        lambda cell: Event("finished", cell, error="MemoryError: a"),
        lambda cell: Event("finished", cell, error="MemoryError: b"),
    )
    assert run(cell, settings, script) == [
        ("retried", "MemoryError: a"),
        ("finished", "MemoryError: b"),
    ]


def test_a_lost_worker_is_a_stored_failure_unless_the_cell_is_to_be_run_again(
    cell: Cell, tmp_path: Path
) -> None:
    script = Script(
        lambda _: WorkerLost(Failure("WorkerDied: node lost"), rerun=True),
        lambda _: WorkerLost(Failure("WorkerDied: exit code 3")),
    )
    assert run(cell, Settings(tmp_path, tmp_path), script) == [
        ("retried", "WorkerDied: node lost"),
        ("finished", "WorkerDied: exit code 3"),
    ]
    assert script.removed == 2
    record = RunStore(tmp_path).read(cell.key)
    assert record is not None
    assert (record.failure, record.attempt) == ("killed", 1)


def test_the_time_limit_of_an_attempt_starts_anew_with_the_cell_and_with_encoding(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now[0])

    def later(answer: Answer) -> Answer:
        def after_eight_seconds(cell: Cell) -> Message | None:
            now[0] += 8
            return answer(cell)

        return after_eight_seconds

    script = Script(
        later(lambda cell: Event("started", cell)),
        later(lambda cell: Event("encoding", cell, (1, 2))),
        later(lambda cell: Event("measured", cell)),
        later(lambda _: None),
    )
    settings = replace(Settings(tmp_path, tmp_path), timeout=10.0)
    events = run(cell, settings, script)
    assert events[-1] == ("finished", "TimedOut: no end after 10 s")
    record = RunStore(tmp_path).read(cell.key)
    assert record is not None
    assert (record.failure, record.trace) == ("timeout", ("slow.py:3 in fit",))


def test_ray_that_is_not_installed_and_devices_that_are_not_here_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CompatbenchError, match=r"pip install 'compatbench\[ray\]'"):
        Compute("ray").check()
    for name in ("tpu", "meta", "cuda:99"):
        with pytest.raises(CompatbenchError, match=f"'{name}' cannot be used here; .* auto, cpu"):
            resolve_device(name)
    assert resolve_device("auto") in available_devices()
