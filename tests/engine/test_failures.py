"""A cell that fails is a row with its error, and is tried again; it harms no other cell."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import invoke_in
from planning import cells_of

from compatbench.engine.attach import Carried
from compatbench.engine.cell import Cell
from compatbench.engine.compute import Compute
from compatbench.engine.execute import dispatcher, local
from compatbench.engine.execute.dispatcher import FALSE_STARTS, Dispatcher, Job
from compatbench.engine.execute.events import Event
from compatbench.engine.execute.local import describe_exit
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Order, Worker
from compatbench.errors import CompatbenchError
from compatbench.files.atomic import cannot_write
from compatbench.files.processes import is_stopped

from .running import SlowRun, finish, wait_until, write_methods


@pytest.fixture(scope="module")
def cell() -> Cell:
    [cell] = cells_of("smoke", ["zeroshot"])
    return cell


def test_a_failure_fails_what_is_left_and_nothing_that_is_done(cell: Cell, tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    record = store.write_failure(cell, "WorkerDied: no reason", peak_memory=5)
    assert (record.status, record.state, record.errors) == (
        "failed",
        "failed",
        ["WorkerDied: no reason"],
    )
    # It keeps a fit that was stored before.
    half = finish(store, cell, cell.source)
    record = store.write_failure(cell, "TimedOut: no end after 5 s")
    assert store.read(cell.key) == record
    assert (record.status, record.state) == ("ok", "failed")
    assert record.records[0] == half.records[0]
    assert [outcome.status for outcome in record.records] == ["ok", "failed"]
    assert store.read_state(cell)[:2] == (False, True)
    # A worker may die after its last predictions were stored.
    done = finish(store, cell)
    assert store.write_failure(cell, "WorkerDied: too late") == done
    assert store.read(cell.key) == done


def test_a_full_disk_while_a_module_is_attached_ends_the_run(
    cell: Cell, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise cannot_write(Path("entry"), OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(Carried, "data", fail)
    with pytest.raises(CompatbenchError, match="no room for entry"):
        worker.run(cell)
    record = worker.store.read(cell.key)
    assert record is not None
    assert record.errors == []


def test_the_end_of_a_process_is_described() -> None:
    assert "killed by signal 11 (SIGSEGV)" in describe_exit(-11)
    assert describe_exit(-9).endswith("(SIGKILL), as the system does when memory runs out")
    assert describe_exit(3) == "WorkerDied: worker process ended with exit code 3"


def test_the_start_of_a_worker_does_not_wait_for_it(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent little: the cells of a large run would not fit into its pipe."""
    sent: list[Any] = []
    connection = SimpleNamespace(send=sent.append)
    monkeypatch.setattr(local, "start_process", lambda *_, **__: (None, connection))
    local.Processes(Job([cell], tmp_path, tmp_path, Compute(device="cpu"))).start()
    [(kind, (job, device))] = sent
    assert (kind, job.store, len(job.cells), device) == ("job", tmp_path, 0, "cpu")


class Script:
    """A crew whose workers send the messages of a script.

    The script has the messages of a start, and of each attempt at a cell, by the cell's name.
    """

    deaths = 0

    def __init__(self, **script: list[list[tuple[str, Any]]]) -> None:
        self.script = script
        self.started = 0
        self.killed = 0
        self.stopped: list[int] = []
        self.orders: list[Order] = []
        self._messages: list[tuple[int, str, Any]] = []

    def start(self) -> int:
        self.started += 1
        self._add(self.started, self.script["start"][0])
        return self.started

    def send(self, worker: int, order: Order) -> None:
        self.orders.append(order)
        if order.error:
            self._add(worker, [("ended", order.error), ("ready", None)])
        else:
            self._add(worker, self.script[order.cell.name].pop(0))

    def _add(self, worker: int, messages: list[tuple[str, Any]]) -> None:
        for kind, value in messages:
            self._messages.append((worker, kind, value))

    def listen(self, seconds: float, on_message: Any) -> None:
        messages = self._messages
        self._messages = []
        for message in messages:
            on_message(*message)

    def find_stopped(self) -> list[int]:
        return self.stopped

    def kill(self, worker: int) -> None:
        self.killed += 1

    def end(self) -> None: ...


READY = ("ready", None)


def follow(tmp_path: Path, cell: Cell, crew: Script, **compute: Any) -> list[Event]:
    events: list[Event] = []
    job = Job([cell], tmp_path, tmp_path, Compute(**compute))
    Dispatcher(job, crew, events.append).run(1)
    return events


@pytest.mark.parametrize(
    "message", [("encoding", 5), ("encoding", ["all", 3]), ("gone", None), ("ended", 5), ([], "")]
)
def test_messages_that_a_method_has_changed_end_the_run_with_one_line(
    cell: Cell, tmp_path: Path, message: tuple[Any, Any]
) -> None:
    crew = Script(start=[[READY]], zeroshot=[[("started", None), message]])
    with pytest.raises(CompatbenchError, match="a method has changed what its process sends"):
        follow(tmp_path, cell, crew)
    idle = Script(start=[[message]])
    with pytest.raises(CompatbenchError, match="a method has sent a message of no cell"):
        follow(tmp_path, cell, idle)


@pytest.mark.parametrize("last", [("died", "WorkerDied: x"), ("ended", "ValueError: x")])
@pytest.mark.parametrize("retry", [0, 2])
def test_a_cell_that_fails_is_retried_as_often_as_requested(
    cell: Cell, tmp_path: Path, last: tuple[str, str], retry: int
) -> None:
    kind, error = last
    attempt = [("started", None), last]
    if kind == "ended":
        attempt.append(READY)
    crew = Script(start=[[READY]], zeroshot=[attempt] * (retry + 1))
    events = follow(tmp_path, cell, crew, retry=retry)
    expected = ["started", "retried"] * retry + ["started", "finished"]
    assert [event.kind for event in events] == expected
    assert events[-1].error == error
    # A worker that died is replaced, and its replacement records the failure in the end.
    recorded = [order.error for order in crew.orders if order.error]
    assert recorded == ([error] if kind == "died" else [])


def test_a_cell_that_takes_too_long_is_ended_with_its_worker(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LOADING_SECONDS", 0.0)
    crew = Script(start=[[READY]], zeroshot=[[("started", None)]])
    events = follow(tmp_path, cell, crew, timeout=0.05)
    assert (events[-1].kind, events[-1].error) == ("finished", "TimedOut: no end after 0.05 s")
    assert (crew.killed, crew.started) == (1, 2)


def test_loading_encoding_and_waiting_do_not_count_for_the_timeout(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part takes most of the time; only what follows the last of them counts."""
    now = [100.0]
    monkeypatch.setattr(dispatcher, "LOADING_SECONDS", 1.0)
    monkeypatch.setattr(dispatcher, "time", SimpleNamespace(monotonic=lambda: now[0]))
    waits = [("waits", None)] * 4
    loads = [("started", None), ("started", None), ("loaded", None)]
    parts = [*waits, *loads, ("encoding", (1, 2)), ("waits", None), ("ended", ""), READY]

    class Slow(Script):
        def listen(self, seconds: float, on_message: Any) -> None:
            now[0] += 0.6
            if self._messages:
                on_message(*self._messages.pop(0))

    crew = Slow(start=[[READY]], zeroshot=[[("started", None), *parts]])
    events = follow(tmp_path, cell, crew, timeout=1.0)
    assert (events[-1].kind, events[-1].error, crew.killed) == ("finished", "", 0)


class Stopping(Script):
    """A crew whose first worker is stopped; the next one is ready."""

    def find_stopped(self) -> list[int]:
        return [1] if self.killed == 0 else []

    def start(self) -> int:
        number = super().start()
        self.script["start"] = [[READY]]
        return number


@pytest.mark.parametrize("start", [[], [READY]], ids=["while it starts", "while it loads"])
def test_a_stopped_worker_gets_no_time_to_start_or_to_load(
    cell: Cell, tmp_path: Path, start: list[tuple[str, Any]]
) -> None:
    attempts = [[("started", None), ("ended", ""), READY]]
    if start:
        attempts.insert(0, [("started", None)])
    crew = Stopping(start=[start], zeroshot=attempts)
    events = follow(tmp_path, cell, crew, timeout=0.2, retry=1)
    assert (events[-1].kind, events[-1].error) == ("finished", "")
    assert (crew.killed, crew.started) == (1, 2)
    if start:
        reason = "TimedOut: its process was stopped, and did not go on after 0.2 s"
        assert [event.error for event in events if event.kind == "retried"] == [reason]


def test_a_worker_that_never_starts_is_replaced(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that imports packages from a disk that hangs."""
    monkeypatch.setattr(dispatcher, "LOADING_SECONDS", 0.0)
    crew = Script(start=[[]])
    with pytest.raises(CompatbenchError, match="workers cannot start: TimedOut: no start after"):
        follow(tmp_path, cell, crew, timeout=0.05)
    assert (crew.killed, crew.started) == (FALSE_STARTS, FALSE_STARTS)


def test_workers_that_cannot_start_end_the_run(cell: Cell, tmp_path: Path) -> None:
    crew = Script(start=[[("died", "exit code 1")]])
    with pytest.raises(CompatbenchError, match="workers cannot start: exit code 1"):
        follow(tmp_path, cell, crew)
    assert crew.started == FALSE_STARTS


def records_in(out: Path) -> dict[str, dict[str, Any]]:
    """Return the records in a folder as they are written, by method."""
    records = {}
    for path in out.rglob("cells/*/*.json"):
        record = json.loads(path.read_text())
        records[record["method"]] = record
    return records


@pytest.mark.slow
def test_each_failure_costs_its_cell_alone_with_one_worker_too(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    note = "open(f'{type(self).__name__}.tries', 'a').write('x'); "
    write_methods(
        bad,
        "import ctypes, os, time, torch\n",
        breaks=f"{note}raise RuntimeError('no luck')",
        hangs=f"{note}time.sleep(600)",
        crashes=f"{note}ctypes.string_at(0)",  # reads where it may not
        starves=f"{note}torch.empty(2**50)",
        second=f"{note}os.path.exists('died') or (os.mkdir('died'), os._exit(3))",
    )
    refuse = "if backbone.name != 'mini-clip': raise NotTransferable('made for mini-clip')"
    write_methods(bad, attach=refuse, picky="pass")
    write_methods(bad, attach="return lambda features: features[:, :2]", wrong="pass")
    command = ["run", "--suite", "smoke", "--methods", "./bad.py,zeroshot", "--jobs", "1"]
    result = invoke_in(tmp_path, *command, "--retry", "1", "--timeout", "6s")
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert "5 of 8 cells failed" in result.stdout
    assert result.stdout.count("trying again") == 6
    found = records_in(tmp_path)
    assert {name: record["status"] for name, record in found.items()} == {
        **dict.fromkeys(("breaks", "hangs", "crashes", "starves"), "failed"),
        **dict.fromkeys(("second", "picky", "wrong", "zeroshot"), "ok"),
    }
    tries = {path.stem.lower(): len(path.read_text()) for path in tmp_path.glob("*.tries")}
    assert tries == dict.fromkeys(("breaks", "hangs", "crashes", "starves", "second"), 2)
    assert "SIGSEGV" in found["crashes"]["error"]
    assert found["zeroshot"]["peak_memory"] > 2**27

    def row_of(method: str) -> tuple[str, str]:
        rows = (tmp_path / "results" / "smoke" / f"{method}.csv").open()
        *_, target = csv.DictReader(rows)
        return target["status"], target["reason"]

    assert row_of("zeroshot") == ("ok", "")
    assert row_of("breaks") == ("failed", "RuntimeError: no luck (bad.py:8)")
    assert row_of("hangs") == ("failed", "TimedOut: no end after 6 s")
    assert row_of("picky") == ("not transferable", "made for mini-clip")
    assert row_of("wrong")[1].startswith("logits have shape")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals")
def test_a_child_is_seen_to_be_stopped_until_it_goes_on() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert not is_stopped(child.pid)
        child.send_signal(signal.SIGSTOP)
        assert wait_until(lambda: is_stopped(child.pid), 10)
        assert is_stopped(child.pid)  # as long as it is
        child.send_signal(signal.SIGCONT)
        assert wait_until(lambda: not is_stopped(child.pid), 10)
    finally:
        child.kill()
        child.wait()
    assert not is_stopped(child.pid)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_worker_that_is_stopped_before_it_is_ready_is_ended(tmp_path: Path) -> None:
    with SlowRun(tmp_path, "--jobs", "1", "--timeout", "3s") as run:
        run.go_on()

        def find_worker() -> int | None:
            others = set(run.processes()) - {run.process.pid}
            return min(others, default=None)

        worker = wait_until(find_worker)
        os.kill(worker, signal.SIGSTOP)
        # On a busy machine the worker may be ready, and have the cell, before it is stopped. Before
        # that, it is still planning, and the run ends.
        run.end(0, 1, 2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_worker_that_was_stopped_is_ended_when_its_time_is_up(tmp_path: Path) -> None:
    with SlowRun(tmp_path, "--jobs", "1", "--timeout", "3s") as run:
        run.wait_for_fit()
        workers = [pid for pid in run.processes() if pid != run.process.pid]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        output, _ = run.end(1)
        assert "TimedOut: no end after 3 s" in output
        assert wait_until(lambda: not set(workers) & set(run.processes()), 10)
