"""What follows an attempt at a cell: an end, a retry, a wait or another worker; and devices."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compatbench.backbone.device import available_devices, resolve_device
from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell
from compatbench.engine.execute import scheduler
from compatbench.engine.execute.cell_queue import CellQueue
from compatbench.engine.compute import Compute, Event, Settings
from compatbench.engine.execute.scheduler import Message, Scheduler, WorkerHandle
from compatbench.engine.failures import Failure
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method.registry import builtin_methods

Answer = Callable[[Cell], Message | None]


class Script(Scheduler[WorkerHandle]):
    """One worker at a time, whose attempts end as the answers say; None hangs."""

    answers: list[Answer]

    def count_room(self) -> int:
        return 1

    def start_worker(self) -> WorkerHandle:
        return WorkerHandle()

    def start_cell(self, worker: WorkerHandle, cell: Cell) -> None:
        pass

    def receive(self, seconds: float | None) -> Iterator[tuple[WorkerHandle, Message]]:
        for worker in self.running():
            assert worker.cell is not None
            message = self.answers.pop(0)(worker.cell)
            if message is not None:
                yield worker, message

    def last_frames(self, worker: WorkerHandle) -> tuple[str, ...]:
        return ("slow.py:3 in fit",)

    def end_worker(self, worker: WorkerHandle) -> None:
        worker.ready = False


@pytest.fixture
def cell() -> Cell:
    [cell] = plan_cells(suite_cards.read("smoke"), builtin_methods(), ["zeroshot"])
    return cell


@pytest.fixture(autouse=True)
def _no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "HELD_SECONDS", 0.0)
    monkeypatch.setattr(scheduler, "LOADING_SECONDS", 0.0)


def run(cell: Cell, folder: Path, compute: Compute, *answers: Answer) -> list[tuple[str, str]]:
    events: list[Event] = []
    settings = Settings(folder, folder, compute)
    script = Script(CellQueue([cell], lambda _: 1.0), settings, events.append)
    script.answers = list(answers)
    script.run()
    assert not script.answers
    return [(event.kind, event.error) for event in events]


def test_what_a_worker_reports_is_passed_on(cell: Cell, tmp_path: Path) -> None:
    with pytest.warns(CompatbenchWarning, match="repaired"):
        events = run(
            cell,
            tmp_path,
            Compute(),
            lambda cell: Event("started", cell),
            lambda _: "something was repaired",
            lambda cell: Event("waiting", cell),
            lambda cell: Event("finished", cell),
        )
    assert [kind for kind, _ in events] == ["started", "waiting", "finished"]
    with pytest.raises(CompatbenchError, match="change this"):
        run(cell, tmp_path, Compute(), lambda _: CompatbenchError("change this"))


def test_a_failure_is_retried_as_often_as_its_kind_allows(cell: Cell, tmp_path: Path) -> None:
    events = run(
        cell,
        tmp_path,
        Compute(retry={"oom": 1, "killed": 1}),
        lambda cell: Event("finished", cell, error="MemoryError: a"),
        lambda _: Failure("WorkerDied: exit code 3"),
        lambda _: Failure("WorkerDied: exit code 4"),
    )
    assert events == [
        ("retried", "MemoryError: a"),
        ("retried", "WorkerDied: exit code 3"),
        ("finished", "WorkerDied: exit code 4"),
    ]
    record = RunStore(tmp_path).read(cell.key)
    assert record is not None
    assert (record.failure, record.attempt) == ("killed", 2)


def test_the_time_limit_of_an_attempt_starts_anew_with_the_cell_and_with_encoding(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(scheduler.time, "monotonic", lambda: now[0])

    def later(message: Message | None) -> Answer:
        def after_eight_seconds(cell: Cell) -> Message | None:
            now[0] += 8
            return message

        return after_eight_seconds

    messages = (Event("started", cell), Event("encoding", cell, (1, 2)), Event("measured", cell))
    events = run(cell, tmp_path, Compute(timeout=10), *map(later, (*messages, None)))
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
