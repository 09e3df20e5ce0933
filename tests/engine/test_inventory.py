"""``runs ls``, ``show``, ``verify`` and ``gc``: what they say of a store, and what they touch."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from compatbench.cli.app import app
from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell, CellRecord, describe_cell
from compatbench.engine.failures import Failure, note_failure
from compatbench.engine.peak import PeakMemory
from compatbench.engine.plan import plan_cells
from compatbench.engine.predictions import predict
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.method import Module
from compatbench.method.registry import builtin_methods

MODULE = Module(trained={"context": torch.tensor([[1.5, -2.0]])})


def cells() -> tuple[Cell, Cell]:
    """A cell that the plan of an installed suite has, and one that it had before a change."""
    wanted, other = plan_cells(suite_cards.read("smoke"), builtin_methods(), ["zeroshot", "gda"])
    return wanted, replace(other, key="e" * 64)


def keep(store: RunStore, cell: Cell) -> CellRecord:
    record = describe_cell(cell, "ok", module=MODULE.fingerprint, peak_memory=2**20)
    store.write_module(MODULE, record)
    store.write_predictions(cell.key, {("b", "t", "d"): predict(torch.eye(3))})
    store.write(record)
    return record


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with both cells, and one that failed."""
    store = RunStore(tmp_path / "runs")
    wanted, unwanted = cells()
    keep(store, wanted)
    keep(store, unwanted)
    failed = replace(wanted, key="f" * 64, seed=9)
    note_failure(store, failed, Failure("WorkerDied: [bold]signal 11", ("bad.py:7 in fit",)))
    return tmp_path


def invoke(out: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, ["runs", *arguments, "--out", str(out)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_cells_are_listed_with_how_they_ended(out: Path) -> None:
    lines = invoke(out, "ls").output.splitlines()
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["e" * 12, "ok", "gda", "mini-weather"],
        [cells()[0].key[:12], "ok", "zeroshot", "mini-weather"],
        ["f" * 12, "killed", "zeroshot", "mini-weather"],
    ]
    assert lines[-1].startswith("3 of 3 cells, ")


def test_a_list_may_be_narrowed(out: Path) -> None:
    assert "1 of 3 cells" in invoke(out, "ls", "--state", "all,!ok").output
    assert "1 of 3 cells" in invoke(out, "ls", "--methods", "g*").output
    with pytest.raises(CompatbenchError, match="no state named 'okay'"):
        invoke(out, "ls", "--state", "okay")


def test_all_that_is_kept_of_a_cell_is_shown(out: Path) -> None:
    shown = invoke(out, "show", "ff").output
    assert "killed, attempt 1" in shown
    assert "WorkerDied: [bold]signal 11" in shown
    assert "bad.py:7 in fit" in shown
    assert "1.0 MiB" in invoke(out, "show", "e" * 10).output


def test_a_key_that_no_cell_or_several_have_is_refused(out: Path) -> None:
    with pytest.raises(CompatbenchError, match="holds no cell whose key begins with '0123'"):
        invoke(out, "show", "0123")
    with pytest.raises(CompatbenchError, match="3 cells have keys that begin with ''"):
        invoke(out, "show", "")


def test_a_folder_without_a_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match="runs does not exist"):
        invoke(tmp_path, "ls")


def test_an_intact_store_is_verified(out: Path) -> None:
    result = invoke(out, "verify")
    assert result.exit_code == 0
    assert "7 of 7 files are intact" in result.output


def test_every_file_that_is_not_right_is_named_and_stays(out: Path) -> None:
    store = RunStore(out / "runs")
    wanted, unwanted = cells()
    spoiled = store.cell_path(wanted.key)
    spoiled.write_bytes(spoiled.read_bytes().replace(b"zeroshot", b"zeroshut"))
    moved = store.predictions_path("a" * 64)
    moved.parent.mkdir(parents=True)
    shutil.copy(store.predictions_path(wanted.key), moved)
    stranger = store.folder / "cells" / "notes.txt"
    stranger.write_text("mine")
    Module(trained={"context": torch.zeros(2)}).save(
        store.module_path(unwanted.key), describe_cell(unwanted).model_dump(mode="json")
    )
    before = files(out)
    result = invoke(out, "verify")
    assert result.exit_code == 1
    named = [line for line in result.output.splitlines() if line.startswith("damaged")]
    assert len(named) == 4
    for path, why in (
        (spoiled, "checksum"),
        (moved, "of another cell"),
        (stranger, "no file of a run store"),
        (store.module_path(unwanted.key), "not the module that its record tells of"),
    ):
        assert any(str(path) in line and why in line for line in named), (path, named)
    assert files(out) == before


def test_cleaning_says_what_would_go_and_deletes_when_told(out: Path) -> None:
    store = RunStore(out / "runs")
    wanted, unwanted = cells()
    damaged = store.folder / "damaged" / "torn.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    before = files(out)
    assert "0 files of 2 unwanted cells" in invoke(out, "gc", "--delete").output
    said = invoke(out, "gc", "--days", "0").output
    assert "2 files of 2 unwanted cells" in said
    assert "nothing was deleted" in said
    assert files(out) == before
    invoke(out, "gc", "--days", "0", "--delete")
    gone = set(before) - set(files(out))
    paths = [damaged, store.module_path(unwanted.key), store.predictions_path(unwanted.key)]
    assert gone == {str(path.relative_to(out)) for path in paths}
    assert store.read(unwanted.key) is not None
    invoke(out, "gc", "--days", "0", "--delete", "--records")
    assert store.read(unwanted.key) is None
    assert store.read(wanted.key) is not None


def test_the_remains_of_a_killed_writer_are_cleaned_and_a_held_claim_is_not(out: Path) -> None:
    from filelock import FileLock

    store = RunStore(out / "runs")
    remains = store.folder / "cells" / ".torn.json.12.tmp"
    remains.write_text("{")
    os.utime(remains, (0, 0))
    held = store.claim_path("a" * 64)
    held.parent.mkdir(parents=True)
    with FileLock(held):
        invoke(out, "gc", "--days", "0", "--delete")
        assert held.exists()
    assert not remains.exists()


def test_what_was_set_aside_before_stays(out: Path) -> None:
    store = RunStore(out / "runs")
    key = cells()[0].key
    for content in (b"first", b"second"):
        store.cell_path(key).write_bytes(content)
        with pytest.warns(CompatbenchWarning, match="damaged"):
            store.read(key)
    kept = [path.read_bytes() for path in sorted((store.folder / "damaged").iterdir())]
    assert kept == [b"first", b"second"]


def test_predictions_of_another_cell_are_set_aside(out: Path) -> None:
    store = RunStore(out / "runs")
    wanted, unwanted = cells()
    shutil.copy(store.predictions_path(unwanted.key), store.predictions_path(wanted.key))
    with pytest.warns(CompatbenchWarning, match="of another cell"):
        assert store.read_predictions(wanted.key) == {}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_the_peak_is_that_of_the_cell_and_not_of_those_before() -> None:
    memory = PeakMemory("cpu")
    assert memory.read() is None
    memory.reset()
    before = memory.read()
    large = torch.ones(2**26)
    peak = memory.read()
    del large
    memory.reset()
    after = memory.read()
    assert before is not None
    assert peak is not None
    assert after is not None
    assert peak - before > 0.9 * 2**28
    assert peak - after > 0.5 * 2**28
