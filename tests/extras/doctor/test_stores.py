"""``store runs`` lists the cells of a store, and deletes old modules and predictions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import invoke
from planning import cells_of

from compatbench.engine.cell import Cell, describe_cell
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.extras.doctor.stores import list_runs
from compatbench.method import Module
from compatbench.method.predictions import predict

MODULE = Module(trained={"context": torch.tensor([[1.5, -2.0]])})


@pytest.fixture(scope="module")
def cells() -> tuple[Cell, Cell]:
    """Return a cell of the plan of an installed suite, and one that it had before a change."""
    planned, other = cells_of("smoke", ["zeroshot", "gda"])
    return planned, replace(other, key="e" * 64)


@pytest.fixture
def store(tmp_path: Path, cells: tuple[Cell, Cell], monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """Return the current folder's store, with both cells and one that failed."""
    monkeypatch.chdir(tmp_path)
    store = RunStore(tmp_path / "runs")
    for cell in cells:
        record = describe_cell(cell, "ok", module=MODULE.fingerprint, peak_memory=2**20)
        store.write_module(MODULE, record)
        store.write_predictions(cell.key, {("b", "t", "d"): predict(torch.eye(3))})
        store.write(record)
    failed = replace(cells[0], key="f" * 64, seed=9)
    store.write_failure(failed, "WorkerDied: [bold]signal 11")
    return store


def contents(store: RunStore) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}


def test_cells_are_listed_with_how_they_ended(store: RunStore, cells: tuple[Cell, Cell]) -> None:
    rows = list_runs()[["key", "state", "method", "seed"]].values.tolist()
    assert rows == [
        ["e" * 64, "ok", "gda", 1],
        [cells[0].key, "ok", "zeroshot", 1],
        ["f" * 64, "failed", "zeroshot", 9],
    ]
    assert len(list_runs(state="all,!ok")) == len(list_runs(methods="g*")) == 1
    with pytest.raises(CompatbenchError, match="no state named 'okay'"):
        list_runs(state="okay")
    (store.folder / "new" / "runs").mkdir(parents=True)
    assert list_runs(out=store.folder / "new").empty
    with pytest.raises(CompatbenchError, match="runs does not exist; 'compatbench run' makes it"):
        list_runs(out=store.folder)
    lines = invoke("store runs ls").output.splitlines()
    assert lines[1].split()[:4] == ["e" * 12, "ok", "gda", "mini-weather"]
    assert lines[-2] == f"{'f' * 12} WorkerDied: [bold]signal 11"
    assert lines[-1].startswith("3 cells, ")


def test_damaged_record_is_not_listed(store: RunStore, cells: tuple[Cell, Cell]) -> None:
    spoiled = store.cell_path(cells[0].key)
    spoiled.write_bytes(spoiled.read_bytes().replace(b"zeroshot", b"zeroshut"))
    assert cells[0].key not in {*list_runs()["key"]}
    assert spoiled.is_file()


def test_prune_deletes_modules_and_predictions_of_old_cells(
    store: RunStore, cells: tuple[Cell, Cell]
) -> None:
    kept, old = cells
    damaged = store.folder / "damaged" / "torn.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    unfinished = store.folder / "cells" / ".torn.json.12.tmp"
    unfinished.write_text("{")
    os.utime(unfinished, (0, 0))
    before = contents(store)
    output = invoke("store runs prune", "--methods", "gda", "--days", "0").output
    assert "2 files of cells" in output
    assert "2 files damaged, or left" in output
    assert "nothing was deleted" in output
    assert contents(store) == before
    with pytest.raises(CompatbenchError, match="'' names no method"):
        invoke("store runs prune", "--methods", "", "--days", "0", "--delete")
    assert contents(store) == before
    # All that is younger than a month stays.
    assert "0 files of cells" in invoke("store runs prune", "--delete").output
    assert contents(store).keys() == before.keys() - {unfinished}
    invoke("store runs prune", "--methods", "gda", "--days", "0", "--delete")
    files = {store.module_path(old.key), store.predictions_path(old.key)}
    assert before.keys() - contents(store).keys() == {*files, damaged, unfinished}
    assert {kept.key, old.key} <= {*list_runs()["key"]}
