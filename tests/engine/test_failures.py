"""Failures are told apart, counted and tried again; none of them harms another cell."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke_in

from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell
from compatbench.engine.failures import Failure, describe_end, kind_of, note_failure
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore
from compatbench.method.registry import builtin_methods

from .running import finish, write_methods

FRAMES = """\
Timeout (0:00:05)!
Thread 0x00007f0 (most recent call first):
  File "/lib/threading.py", line 7 in wait
Thread 0x00007f1 (most recent call first):
  File "/lib/library.py", line 3 in deep
  File "/here/slow.py", line 12 in fit
"""


def _ended(exit_code: int | None, out_of_memory: bool = False) -> str:
    return describe_end("", None, exit_code, out_of_memory).error


@pytest.fixture(scope="module")
def cell() -> Cell:
    [cell] = plan_cells(suite_cards.read("smoke"), builtin_methods(), ["zeroshot"])
    return cell


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("ValueError: no", "error"),
        ("RuntimeError: mat1 and mat2 shapes cannot be multiplied", "error"),
        ("TimeoutError: of a server", "error"),
        ("MemoryError", "oom"),
        ("_ArrayMemoryError: Unable to allocate 8 TiB", "oom"),
        ("OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "oom"),
        ("RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory", "oom"),
        ("AcceleratorError: CUDA error: out of memory", "oom"),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "oom"),
        ("TimedOut: no end after 5 s", "timeout"),
        (_ended(-11), "killed"),
        (_ended(-9), "killed"),
        (_ended(3, True), "killed"),
        (_ended(-9, True), "oom"),
    ],
)
def test_kinds_of_failure_are_told_apart(error: str, kind: str) -> None:
    assert kind_of(error) == kind
    assert "killed by signal 11 (SIGSEGV)" in _ended(-11)
    assert "exit code 3" in _ended(3)


def test_a_failure_is_counted_and_fails_what_is_left_but_nothing_that_is_done(
    cell: Cell, tmp_path: Path
) -> None:
    store = RunStore(tmp_path)
    for attempt in (1, 2):
        record = note_failure(store, cell, Failure("WorkerDied: no reason", ("a.py:1 in f",)))
        assert (record.status, record.failure, record.attempt) == ("failed", "killed", attempt)
    # After the fit, the fit is kept.
    half = finish(store, cell, cell.source)
    record = note_failure(store, cell, Failure("TimedOut: no end after 5 s"))
    assert store.read(cell.key) == record
    assert (record.status, record.failure) == ("ok", "timeout")
    assert record.records[0] == half.records[0]
    assert [r.status for r in record.records] == ["ok", "failed"]
    assert store.read_state(cell)[:2] == (False, True)
    # A worker may die after its last predictions were stored.
    done = finish(store, cell)
    assert note_failure(store, cell, Failure("WorkerDied: too late")) == done
    assert store.read(cell.key) == done


def test_what_a_process_has_written_down_tells_how_it_ended() -> None:
    late = describe_end(FRAMES, 5.0, 1, False)
    assert late.error == "TimedOut: no end after 5 s"
    assert late.trace == ("slow.py:12 in fit", "library.py:3 in deep")
    crashed = describe_end(FRAMES.partition("\n")[2], 5.0, -11, False)
    assert "SIGSEGV" in crashed.error
    assert crashed.trace == late.trace
    assert "its machine, is gone" in _ended(None)


def records_in(out: Path) -> dict[str, dict[str, Any]]:
    """The records of a folder as they are written, by method."""
    texts = [path.read_text() for path in out.rglob("cells/*/*.json")]
    return {record["method"]: record for record in map(json.loads, texts)}


@pytest.mark.slow
def test_each_kind_of_failure_costs_its_cell_alone_with_one_worker_too(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    write_methods(
        bad,
        "import ctypes, os, time, torch\n",
        breaks="raise RuntimeError('no luck')",
        hangs="time.sleep(600)",
        crashes="ctypes.string_at(0)",  # reads where it may not
        starves="torch.empty(2**50)",
        second="os.path.exists('died') or (os.mkdir('died'), os._exit(3))",
    )
    only = "if backbone.name != 'mini-clip': raise NotTransferable('made for mini-clip')"
    write_methods(bad, attach=only, picky="pass")
    write_methods(bad, attach="return lambda features: features[:, :2]", wrong="pass")
    command = ["run", "--suite", "smoke", "--methods", "./bad.py,zeroshot"]
    result = invoke_in(tmp_path, *command, "--retry", "oom, killed:2", "--timeout", "8s")
    assert result.exit_code == 1, result.output
    assert "Traceback" not in result.output
    assert "5 of 8 cells failed" in result.stdout
    assert result.stdout.count("trying again") == 4
    found = records_in(tmp_path)
    assert {name: (r["status"], r["failure"], r["attempt"]) for name, r in found.items()} == {
        "breaks": ("failed", "error", 1),
        "hangs": ("failed", "timeout", 1),
        "crashes": ("failed", "killed", 3),
        "starves": ("failed", "oom", 2),
        "second": ("ok", None, 2),
        "picky": ("ok", None, 1),
        "wrong": ("ok", "error", 1),
        "zeroshot": ("ok", None, 1),
    }
    assert "SIGSEGV" in found["crashes"]["error"]
    for name in ("breaks", "hangs", "crashes", "starves"):
        frames = found[name]["trace"][-2:]
        assert any(re.fullmatch(r"bad\.py:\d+ in fit", frame) for frame in frames), frames
    assert found["zeroshot"]["peak_memory"] > 2**27

    def row_of(method: str) -> tuple[str, str]:
        rows = (tmp_path / "results" / "smoke" / f"{method}.csv").open()
        *_, target = csv.DictReader(rows)
        return target["status"], target["reason"]

    assert row_of("zeroshot") == ("ok", "")
    assert row_of("breaks") == ("failed", "RuntimeError: no luck (bad.py:8)")
    assert row_of("hangs") == ("failed", "TimedOut: no end after 8 s")
    assert row_of("picky") == ("not transferable", "made for mini-clip")
    assert row_of("wrong")[1].startswith("logits have shape")
