"""Links, pipes and folders in place of files cannot stop or hang a run, or lead out of a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
from command_line import invoke
from made_results import COOP, make_method, make_row

from compatbench.data.cache_files import prune_entries, read_entry, write_entry
from compatbench.engine.cell import CellRecord
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.extras.doctor.stores import list_runs, prune_runs
from compatbench.method import Module, load_module
from compatbench.method.predictions import predict
from compatbench.results.result_files import ResultFiles
from compatbench.tables.pages.leaderboard import read_readme, report

KEY = "5" * 64
MODULE = Module(trained={"context": torch.tensor([[1.5, -2.0]])})
FIT = dict(method="toy", task="t", source="s", shots=4, seed=1, config={}, provenance={})
RECORD = CellRecord(**FIT, key=KEY, status="ok", module=MODULE.fingerprint)  # type: ignore[arg-type]
# A process that opens a pipe without a writer would wait forever.
pytestmark = pytest.mark.timeout(60)
NO_FILES = ["folder", "pipe", "dangling link", "outward link"]
NO_FOLDERS = ["file", *NO_FILES[1:]]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder beside the results that nobody may change."""
    folder = tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    for name in ("mine", "mine.svg", f"inner/{KEY}.json", f"inner/{KEY}.safetensors"):
        (folder / name).write_text("mine")
    before = times_in(folder)
    yield folder
    assert times_in(folder) == before


def times_in(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def put(kind: str, path: Path, target: Path) -> None:
    """Put something in the place of a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    if kind == "folder":
        (path / "inner").mkdir(parents=True)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "file":
        path.write_text("x")
    else:
        path.symlink_to(target if kind == "outward link" else "/nowhere")


def write_all(store: RunStore) -> None:
    with store.claim(KEY) as mine:
        assert mine
    store.write_module(MODULE, RECORD)
    store.write_predictions(KEY, {("b", "t", "d"): predict(torch.eye(3))})
    store.write(RECORD)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "out" / "runs")
    write_all(store)
    return store


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("place", ["cell_path", "module_path", "predictions_path", "claim_path"])
def test_other_things_in_place_of_store_files_are_set_aside_and_pruned(
    store: RunStore, outside: Path, place: str, kind: str
) -> None:
    path = getattr(store, place)(KEY)
    put(kind, path, outside / "mine")
    out = store.folder.parent
    listed = [] if place == "cell_path" else [KEY]
    assert [*list_runs(out=out)["key"]] == listed
    prune_runs(days=0, delete=True, out=out)
    with pytest.warns(CompatbenchWarning, match=f"{path.name} is damaged .*, not a file"):
        write_all(store)
    assert store.read(KEY) == RECORD
    assert store.read_module(RECORD) is not None
    assert store.read_predictions(KEY)
    assert os.path.lexists(store.folder / "damaged" / path.name)
    prune_runs(days=0, delete=True, out=out)
    assert list((store.folder / "damaged").iterdir()) == []


@pytest.mark.parametrize("kind", NO_FOLDERS)
@pytest.mark.parametrize("place", ["cells", "cells/55", "modules/55", "predictions", "damaged"])
def test_other_things_in_place_of_store_folders_are_refused_or_set_aside(
    store: RunStore, outside: Path, place: str, kind: str
) -> None:
    path = store.folder / place
    put(kind, path, outside / "inner" if "/" in place else outside)
    prune_runs(days=0, delete=True, out=store.folder.parent)
    if place == "damaged":
        store.cell_path(KEY).write_text("x")
    message = f"{path} is a .*, not a folder; move it away"
    if place == "damaged":
        with pytest.raises(CompatbenchError, match=message):
            store.read(KEY)
    elif "link" in kind:
        with pytest.raises(CompatbenchError, match=message):
            write_all(store)
    else:
        with pytest.warns(CompatbenchWarning, match=f"{path} is damaged"):
            write_all(store)
        assert store.read(KEY) == RECORD


@pytest.mark.parametrize("kind", NO_FOLDERS)
def test_store_that_is_not_a_folder_is_refused(store: RunStore, outside: Path, kind: str) -> None:
    put(kind, store.folder, outside)
    message = r"runs is a .*, not a folder; move it away"
    with pytest.raises(CompatbenchError, match=message):
        RunStore(store.folder).read(KEY)
    with pytest.raises(CompatbenchError, match=message):
        list_runs(out=store.folder.parent)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The folder ``results/`` with the results of one suite."""
    ResultFiles(tmp_path / "out").write("smoke", [make_method(COOP, [make_row()])])
    return tmp_path / "out" / "results"


RESULT_FILES = ["smoke/coop.csv", "smoke/coop.json", "smoke/costs.csv", "smoke/other.json"]
RESULT_FOLDERS = [".", "smoke", "figures", "report"]
PLACES = [*product(RESULT_FILES, NO_FILES), *product(RESULT_FOLDERS, NO_FOLDERS)]
PLACES.remove(("smoke", "file"))  # a file beside the suites' folders is ignored


@pytest.mark.parametrize(("place", "kind"), PLACES)
def test_other_things_in_place_of_results_are_refused(
    results: Path, outside: Path, place: str, kind: str
) -> None:
    """``report`` deletes outdated figures, and must not follow a link to do so."""
    path = results / place
    if place in RESULT_FILES:
        put(kind, path, outside / "mine")
        with pytest.raises(CompatbenchError, match=f"{path} is a .*, not a file; move it away"):
            ResultFiles(results.parent).read_suite("smoke")
    else:
        put(kind, path, outside)
        with pytest.raises(CompatbenchError, match=f"{path} is a .*, not a folder; move it away"):
            report(results.parent)


def test_pipes_among_modules_and_features_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(CompatbenchError, match="is a pipe or device, not a file"):
        load_module(tmp_path / "m.safetensors")
    assert read_entry(tmp_path / "m.safetensors") is None


def test_readme_must_be_utf8_only_if_it_shows_the_ranking(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_bytes("für alle".encode("latin-1"))
    assert read_readme(tmp_path) == ""
    readme.write_bytes("für <!-- leaderboard:begin -->\n".encode("latin-1"))
    with pytest.raises(CompatbenchError, match=r"README\.md is not UTF-8 .*; save it as UTF-8"):
        read_readme(tmp_path)


def test_cache_entry_that_cannot_be_deleted_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "features" / "aa" / "a.safetensors"
    write_entry(path, torch.zeros(2, 2), {})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(CompatbenchError, match=f"cannot delete {path}: Permission denied; "):
            prune_entries(tmp_path, 0, None)
    put("pipe", path.with_name("b.safetensors"), tmp_path)
    put("folder", path.with_name("c.safetensors"), tmp_path)
    assert invoke("store cache ls", COMPATBENCH_CACHE=str(tmp_path)).exit_code == 0
    assert len(prune_entries(tmp_path, 0, None)) == 3
    assert list(path.parent.iterdir()) == []
