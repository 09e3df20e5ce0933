"""One process at a time runs a cell; a claim never outlives its holder."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from compatbench.engine.locks import claim, is_free
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning

KEY = "5" * 64

HOLD = """
import sys, time
from pathlib import Path
from compatbench.engine.locks import claim
from compatbench.engine.store import RunStore
with claim(RunStore(Path(sys.argv[1])), sys.argv[2]) as mine:
    print(mine.held, flush=True)
    time.sleep(600)
"""


def test_a_claim_is_had_once(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with claim(store, KEY) as first, claim(store, KEY) as second:
        assert first.held
        assert not second.held
        with claim(store, "6" * 64) as other:
            assert other.held
    with claim(store, KEY) as again:
        assert again.held


def test_the_claim_of_a_killed_process_is_free(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), KEY], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"True\n"
    with claim(store, KEY) as mine:
        assert not mine.held
    assert not is_free(store.claim_path(KEY))
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with claim(store, KEY) as mine:
        assert mine.held


def test_the_lock_file_goes_only_when_all_is_done(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with claim(store, KEY):
        pass
    assert store.claim_path(KEY).exists()
    with claim(store, KEY) as mine:
        mine.done = True
    assert not store.claim_path(KEY).exists()


def test_one_may_wait_for_a_claim(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    began = threading.Event()

    def hold() -> None:
        with claim(store, KEY):
            began.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold)
    thread.start()
    began.wait()
    with claim(store, KEY, wait=True) as mine:
        assert mine.held
    thread.join()


def test_without_locks_a_run_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with (
        pytest.warns(CompatbenchWarning, match="without locks"),
        claim(RunStore(tmp_path), KEY) as mine,
    ):
        assert mine.held


def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    """As where a disk was unmounted: the next write would go to the disk below."""
    folder = tmp_path / "runs"
    folder.mkdir()
    store = RunStore(folder)
    folder.rmdir()
    with pytest.raises(CompatbenchError, match="still mounted"), claim(store, KEY):
        pass
    assert not folder.exists()
