"""One process at a time runs a cell; a claim never outlives its holder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from filelock import FileLock

from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning

KEY = "5" * 64


def hold(folder: Path, connection: Connection) -> None:
    with RunStore(folder).claim(KEY) as held:
        connection.send(held)
        time.sleep(600)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork begins at once")
def test_a_claim_is_had_once_and_that_of_a_killed_process_is_free(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv()
    with store.claim(KEY) as held, store.claim("6" * 64) as other:
        assert (held, other) == (False, True)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with store.claim(KEY) as held, store.claim(KEY) as again:
        assert (held, again) == (True, False)


def test_one_may_wait_for_a_lock(tmp_path: Path) -> None:
    store, path = RunStore(tmp_path), tmp_path / "some.lock"
    began = threading.Event()

    def hold_shortly() -> None:
        with store.locked(path):
            began.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold_shortly)
    thread.start()
    began.wait()
    with store.locked(path) as held:
        assert held
    thread.join()


def test_without_locks_a_run_warns_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with (
        pytest.warns(CompatbenchWarning, match="without locks"),
        RunStore(tmp_path).claim(KEY) as held,
    ):
        assert held


def test_a_folder_that_vanished_is_not_made_again(tmp_path: Path) -> None:
    """As where a disk was unmounted: the next write would go to the disk below."""
    folder = tmp_path / "runs"
    folder.mkdir()
    store = RunStore(folder)
    folder.rmdir()
    with pytest.raises(CompatbenchError, match="still mounted"), store.claim(KEY):
        pass
    assert not folder.exists()
