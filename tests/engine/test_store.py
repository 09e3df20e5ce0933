"""What a killed process or a crashed machine can leave behind, and what is made of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compatbench.engine.cell import CellRecord, Record
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchWarning
from compatbench.method import Module

from .conftest import Run

KEY = "5" * 64
MODULE = Module(trained={"context": torch.tensor([[1.5, -2.0]])})
FIT = CellRecord(
    key=KEY,
    method="toy",
    config={"recipe": {"lr": 0.1}},
    task="a task",
    source="ä source",
    shots=4,
    seed=1,
    status="ok",
    fit_seconds=7.25,
    parameters=2,
    module_bytes=8,
    module=MODULE.fingerprint,
    provenance={"torch": "2"},
)
DONE = FIT.model_copy(
    update={
        "records": (
            Record(
                backbone="b",
                test_set="t",
                data="d",
                status="ok",
                correct=3,
                total=4,
                zero_shot_correct=1,
            ),
        )
    }
)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    store = RunStore(tmp_path / "runs")
    store.write_module(MODULE, FIT)
    store.write(DONE)
    return store


def path_of(store: RunStore) -> Path:
    return store.folder / "cells" / KEY[:2] / f"{KEY}.json"


def test_what_was_written_is_read_and_a_lost_record_is_that_of_the_fit(store: RunStore) -> None:
    assert store.read("6" * 64) is None
    assert store.read(KEY) == DONE
    module = store.read_module(DONE)
    assert module is not None
    assert module.fingerprint == MODULE.fingerprint
    path_of(store).unlink()
    assert store.read(KEY) == FIT


def test_a_module_under_another_name_is_not_this_cells(store: RunStore) -> None:
    other = "6" * 64
    store.module_path(other).parent.mkdir(parents=True)
    shutil.copy(store.module_path(KEY), store.module_path(other))
    with pytest.warns(CompatbenchWarning, match="another cell"):
        assert store.read(other) is None
    assert (store.folder / "damaged" / f"{other}.safetensors").exists()


def test_a_lost_record_with_a_damaged_module_is_no_record(store: RunStore) -> None:
    path_of(store).unlink()
    store.module_path(KEY).write_bytes(store.module_path(KEY).read_bytes()[:-1])
    with pytest.warns(CompatbenchWarning, match="damaged"):
        assert store.read(KEY) is None


@given(data=st.data())
def test_a_torn_record_is_never_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut short, with pages that were never written, or with a bit that flipped."""
    store = RunStore(tmp_path_factory.mktemp("torn"))
    store.write_module(MODULE, FIT)
    store.write(DONE)
    whole = path_of(store).read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from(["cut", "hole", "flip"]))
    if damage == "cut":
        torn = whole[:start]
    elif damage == "hole":
        stop = data.draw(st.integers(start + 1, len(whole)))
        torn = whole[:start] + bytes(stop - start) + whole[stop:]
    else:
        flipped = whole[start] ^ (1 << data.draw(st.integers(0, 7)))
        torn = whole[:start] + bytes([flipped]) + whole[start + 1 :]
    path_of(store).write_bytes(torn)
    with pytest.warns(CompatbenchWarning, match="damaged"):
        assert store.read(KEY) == FIT
    assert (store.folder / "damaged" / f"{KEY}.json").read_bytes() == torn


@pytest.mark.slow
def test_a_killed_writer_leaves_whole_records(tmp_path: Path) -> None:
    """A process that does nothing but write, killed without warning, many times."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from compatbench.engine.cell import CellRecord\n"
        "from compatbench.engine.store import RunStore\n"
        "store = RunStore(Path(sys.argv[1]))\n"
        "record = CellRecord.model_validate_json(sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "n = 0\n"
        "while True:\n"
        "    n += 1\n"
        "    key = f'{n % 7:064d}'\n"
        "    long = {'n': n, 'filler': 'x' * 20_000}\n"
        "    store.write(record.model_copy(update={'key': key, 'config': long}))\n"
    )
    store = RunStore(tmp_path)
    for delay in (0.0, 0.01, 0.05):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path), DONE.model_dump_json()],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 30
        while not any(tmp_path.rglob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = [store.read(f"{n:064d}") for n in range(7)]
        assert any(found)  # and no CompatbenchWarning, which the settings of pytest make an error
        assert not (tmp_path / "damaged").exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["gone", "empty", "zeros"])
def test_after_a_crash_of_the_machine_nothing_is_fitted_again(
    compatbench: Run, smoke: Path, tmp_path: Path, what: str
) -> None:
    """The records were not on the disk yet; the modules were."""
    folder = tmp_path / "copy"
    shutil.copytree(smoke, folder)
    for path in (folder / "runs" / "cells").rglob("*.json"):
        if what == "gone":
            path.unlink()
        else:
            path.write_bytes(bytes(path.stat().st_size if what == "zeros" else 0))
    result = compatbench("run", "--suite", "smoke", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert ("damaged" in result.stderr) == (what != "gone")
    modules = sorted((smoke / "runs" / "modules").rglob("*.safetensors"))
    assert modules
    for module in modules:
        again = folder / module.relative_to(smoke)
        assert os.stat(again).st_mtime_ns == os.stat(module).st_mtime_ns
    for path in (smoke / "results" / "smoke").glob("*.csv"):
        if ".cost" not in path.name:
            assert (folder / path.relative_to(smoke)).read_bytes() == path.read_bytes()
