"""What is listed, checked and deleted in a store; ``runs`` prints it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import invoke

from compatbench.backbone import load_backbone
from compatbench.backbone.words import save_words
from compatbench.data.cards import suite_cards
from compatbench.engine.cell import Cell, describe_cell
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError
from compatbench.extras.doctor.store_files import find_files, find_problems, find_waste
from compatbench.extras.doctor.stores import list_runs, show_run
from compatbench.method import Module
from compatbench.method.predictions import predict
from compatbench.method.registry import builtin_methods

MODULE = Module(trained={"context": torch.tensor([[1.5, -2.0]])})


@pytest.fixture(scope="module")
def cells() -> tuple[Cell, Cell]:
    """A cell that the plan of an installed suite has, and one that it had before a change."""
    wanted, other = plan_cells(suite_cards.read("smoke"), builtin_methods(), ["zeroshot", "gda"])
    return wanted, replace(other, key="e" * 64)


@pytest.fixture
def store(tmp_path: Path, cells: tuple[Cell, Cell], monkeypatch: pytest.MonkeyPatch) -> RunStore:
    """The current folder's store, with both cells, and one that failed."""
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
    lines = invoke("store runs ls").output.splitlines()
    assert lines[1].split()[:4] == ["e" * 12, "ok", "gda", "mini-weather"]
    assert lines[-1].startswith("3 cells, ")


def test_all_that_is_kept_of_a_cell_is_shown(store: RunStore, tmp_path: Path) -> None:
    shown = invoke("store runs show", "ff").output
    for text in ("failed", "WorkerDied: [bold]signal 11"):
        assert text in shown
    assert "1.0 MiB" in invoke("store runs show", "e" * 10).output
    for key, out, message in (
        ("0123", ".", "holds no cell whose key begins with '0123'"),
        ("", ".", "3 cells have keys that begin with ''"),
        ("f", tmp_path / "elsewhere", "runs does not exist"),
    ):
        with pytest.raises(CompatbenchError, match=message):
            show_run(key, out)


def test_every_file_that_is_not_right_is_named_and_stays(
    store: RunStore, cells: tuple[Cell, Cell]
) -> None:
    wanted, obsolete = cells
    assert len(find_files(store)) == 7
    assert find_problems(find_files(store)) == {}
    spoiled = store.cell_path(wanted.key)
    spoiled.write_bytes(spoiled.read_bytes().replace(b"zeroshot", b"zeroshut"))
    moved = store.predictions_path("a" * 64)
    moved.parent.mkdir(parents=True)
    shutil.copy(store.predictions_path(wanted.key), moved)
    other = store.module_path(obsolete.key)
    about = describe_cell(obsolete).model_dump(mode="json")
    Module(trained={"context": torch.zeros(2)}).save(other, about)
    # Words lie beside the modules of a run through them.
    save_words(store.folder / "modules", load_backbone("mini-clip"), torch.eye(2))
    before = contents(store)
    found = find_problems(find_files(store))
    assert set(found) == {spoiled, moved, other}
    assert "checksum" in found[spoiled]
    assert "of another cell" in found[moved]
    assert found[other] == "its record is of another module"
    result = invoke("store runs verify")
    assert result.exit_code == 1
    assert result.output.count("damaged") == 3
    assert "5 of 8 files are intact" in result.output
    assert contents(store) == before


@pytest.mark.slow
def test_what_no_plan_asks_for_is_found_and_deleted_when_told(
    store: RunStore, cells: tuple[Cell, Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, obsolete = cells
    two = SimpleNamespace(names=lambda: ["smoke", "mini-price"], read=suite_cards.read)
    monkeypatch.setattr("compatbench.extras.doctor.stores.suite_cards", two)  # all take seconds
    damaged = store.folder / "damaged" / "torn.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    unfinished = store.folder / "cells" / ".torn.json.12.tmp"
    unfinished.write_text("{")
    os.utime(unfinished, (0, 0))
    before = contents(store)
    waste = find_waste(store, [suite_cards.read("smoke")], builtin_methods())
    said = invoke("store runs gc", "--days", "0").output
    assert waste.cells == 2
    assert set(waste.remains) == {damaged, unfinished}
    files = {store.module_path(obsolete.key), store.predictions_path(obsolete.key)}
    assert set(waste.files) == files
    assert "2 files of 2 obsolete cells" in said
    assert "nothing was deleted" in said
    assert contents(store) == before
    assert "(2 younger ones stay)" in invoke("store runs gc", "--delete").output
    assert not unfinished.exists()
    invoke("store runs gc", "--delete", "--days", "0")
    left = contents(store).keys()
    assert before.keys() - left == {*files, damaged, unfinished}
    assert store.module_path(wanted.key) in left
