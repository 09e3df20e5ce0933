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

from compatbench.engine.locks import claim, is_free, locked
from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning

KEY = "5" * 64


def test_a_claim_is_had_once(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    with claim(store, KEY) as first, claim(store, KEY) as second:
        assert first.held
        assert not second.held
        with claim(store, "6" * 64) as other:
            assert other.held
    with claim(store, KEY) as again:
        assert again.held


def hold(folder: Path, connection: Connection) -> None:
    with claim(RunStore(folder), KEY) as mine:
        connection.send(mine.held)
        time.sleep(600)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork begins at once")
def test_the_claim_of_a_killed_process_is_free(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.recv()
    with claim(store, KEY) as mine:
        assert not mine.held
    assert not is_free(store.claim_path(KEY))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
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


def test_one_may_wait_for_a_lock(tmp_path: Path) -> None:
    store, path = RunStore(tmp_path), tmp_path / "some.lock"
    began = threading.Event()

    def hold_shortly() -> None:
        with locked(store, path, wait=True):
            began.set()
            time.sleep(0.2)

    thread = threading.Thread(target=hold_shortly)
    thread.start()
    began.wait()
    with locked(store, path, wait=True) as held:
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
