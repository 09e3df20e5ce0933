"""The run store: after a killed process or a crashed machine, and who may run a cell."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pytest
import torch
from command_line import output_in
from planning import cells_of

from compatbench.data.draws import load_test_set
from compatbench.engine.cell import CellRecord, Outcome
from compatbench.engine.store import RunStore, read_predictions, write_predictions
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files import locks
from compatbench.method import Module
from compatbench.method.predictions import Predictions, predict
from compatbench.results.collect import rows_of

from .running import SMOKE, finish

KEY = "5" * 64
MODULE = Module(trained={"context": torch.tensor([[1.5, -2.0]])})
CELL = {"method": "toy", "task": "a task", "source": "ä source", "shots": 4, "seed": 1}
MADE = {"fit_seconds": 7.25, "parameters": 2, "module_bytes": 8, "module": MODULE.fingerprint}
SETTINGS = {"config": {"recipe": {"lr": 0.1}}, "provenance": {"torch": "2"}}
FIT = CellRecord.model_validate({"key": KEY, "status": "ok", **CELL, **MADE, **SETTINGS})
FROM_MODULE = FIT.model_copy(update={"fit_seconds": None})
OUTCOME = Outcome(backbone="b", test_set="t", data="d", status="ok")
DONE = FIT.model_copy(update={"records": (OUTCOME,)})


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "runs")
    store.write_module(MODULE, FIT)
    store.write(DONE)
    return store


def test_a_record_is_read_as_written_and_a_lost_one_comes_from_the_module(store: RunStore) -> None:
    other = "6" * 64
    assert store.read(other) is None
    assert store.read(KEY) == DONE
    assert store.read_module(DONE).fingerprint == MODULE.fingerprint
    store.cell_path(KEY).unlink()
    assert store.read(KEY) == FROM_MODULE
    # Under another name it does not belong to that cell.
    store.module_path(other).parent.mkdir(parents=True)
    shutil.copy(store.module_path(KEY), store.module_path(other))
    with pytest.warns(CompatbenchWarning, match="another cell"):
        assert store.read(other) is None
    assert (store.folder / "damaged" / f"{other}.safetensors").exists()


def test_equal_fits_are_equal_files_however_long_they_took(store: RunStore) -> None:
    before = store.module_path(KEY).read_bytes()
    measured = {"fit_seconds": 1.5, "peak_memory": 2**30, "attempt": 2}
    store.write_module(MODULE, FIT.model_copy(update=measured))
    assert store.module_path(KEY).read_bytes() == before


def test_damaged_files_are_set_aside_and_count_as_lost(store: RunStore) -> None:
    """The tests of damage change every byte of every kind of file."""
    store.write_predictions(KEY, {("b", "t", "e"): predict(torch.eye(3))})
    for place, read, left in (
        (store.cell_path, store.read, FROM_MODULE),
        (store.module_path, store.read, None),
        (store.predictions_path, store.read_predictions, {}),
    ):
        content = bytearray(place(KEY).read_bytes())
        content[-1] ^= 1
        place(KEY).write_bytes(content)
        with pytest.warns(CompatbenchWarning, match="is damaged .*moved to"):
            assert read(KEY) == left
    # What was set aside before stays.
    names = [f"{KEY}.json", f"{KEY}.safetensors", f"{KEY}.safetensors.1"]
    assert sorted(file.name for file in (store.folder / "damaged").iterdir()) == names


def test_predictions_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    one = predict(torch.tensor([[0.0, 1.0], [2.0, 0.0]]))
    other = predict(torch.eye(3))
    # A backbone's name may contain slashes.
    kept = {("ViT-B-16/openai", "dtd", "d" * 64): one, ("b", "t", "e"): other}
    write_predictions(path, kept, KEY)
    found = read_predictions(path, KEY)
    assert found.keys() == kept.keys()
    for where, value in kept.items():
        assert found[where].classes.equal(value.classes)
        assert found[where].confidence.equal(value.confidence)
    first = path.read_bytes()
    write_predictions(path, dict(reversed(kept.items())), KEY)
    assert path.read_bytes() == first


def test_rows_ignore_predictions_for_an_earlier_test_set(tmp_path: Path) -> None:
    [cell] = cells_of("smoke", ["zeroshot"])
    store = RunStore(tmp_path)
    [test_set] = cell.test_sets
    labels = torch.tensor([sample.label for sample in load_test_set(test_set).split("test")])

    def predict_all(classes: torch.Tensor) -> Predictions:
        return Predictions(classes.int(), torch.ones(len(classes)))

    record = finish(store, cell)
    # As many images as now, and before them in the file.
    predictions = {(cell.source, test_set, ""): predict_all(labels + 1)}
    for where in cell.places:
        predictions[where] = predict_all(labels)
        store.write_zero_shot(where, cell.training.precision, predict_all(labels))
    store.write_predictions(cell.key, predictions)
    source, target = rows_of(cell, record, store)
    assert source.correct == target.correct == len(labels)
    assert target.positive_flips == 0


@pytest.mark.slow
@pytest.mark.parametrize("state", ["gone", "zeros"])
def test_after_a_crash_of_the_machine_nothing_is_fitted_again(
    smoke: Path, tmp_path: Path, state: str
) -> None:
    """The records were not on the disk yet; the modules were."""
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    for path in (folder / "runs" / "cells").rglob("*.json"):
        if state == "gone":
            path.unlink()
        else:
            path.write_bytes(bytes(path.stat().st_size))
    expected = nullcontext()
    if state == "zeros":
        expected = pytest.warns(CompatbenchWarning, match="damaged")
    with expected:
        output_in(folder, *SMOKE)
    modules = sorted((smoke / "runs" / "modules").rglob("*.safetensors"))
    assert modules
    for module in modules:
        again = folder / module.relative_to(smoke)
        assert os.stat(again).st_mtime_ns == os.stat(module).st_mtime_ns
    for path in (smoke / "results" / "smoke").glob("*.csv"):
        if path.name != "costs.csv":
            assert (folder / path.relative_to(smoke)).read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_after_a_crash_torn_predictions_are_made_again_on_every_backbone(worker: Worker) -> None:
    """The record of the first backbone was on the disk already, its predictions were not."""
    [cell] = cells_of("smoke", ["simpleshot"])
    store = worker.store
    record = worker.run(cell)
    store.write(record.model_copy(update={"records": record.records[:1]}))
    path = store.predictions_path(cell.key)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.warns(CompatbenchWarning, match="damaged"):
        record = worker.run(cell)
    assert len(rows_of(cell, record, store)) == len(cell.places)


def test_only_one_run_gets_a_claim(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with store.claim(KEY) as held, store.claim(KEY) as again, store.claim("6" * 64) as other:
        assert (held, again, other) == (True, False, True)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_locks_a_run_warns_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    store = RunStore(tmp_path)
    with (
        pytest.warns(CompatbenchWarning, match=f"{tmp_path} lies on .* without locks"),
        store.claim(KEY) as claimed,
        store.claim(KEY) as again,
        store.lock_fit(KEY, pytest.fail),
        store.lock_fit(KEY, pytest.fail),
    ):
        assert (claimed, again) == (True, True)


def test_waiting_for_a_lock_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT_SECONDS", 0.01)
    store = RunStore(tmp_path)
    waits: list[int] = []

    def wait() -> None:
        waits.append(1)
        if len(waits) == 3:
            first.close()

    with ExitStack() as first:
        first.enter_context(store.lock_fit(KEY, pytest.fail))
        with store.lock_fit(KEY, wait):
            assert len(waits) == 3
    # Files of locks do not pile up.
    assert not list((tmp_path / "locks").iterdir())


def test_a_folder_that_vanished_is_not_created_again(tmp_path: Path) -> None:
    """As where a disk was unmounted: the next write would go to the disk below."""
    folder = tmp_path / "runs"
    folder.mkdir()
    store = RunStore(folder)
    folder.rmdir()
    with pytest.raises(CompatbenchError, match="still mounted"), store.claim(KEY):
        pass
    assert not folder.exists()
