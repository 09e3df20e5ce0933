"""Temporary folders of processes that live, end or are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compatbench.errors import CompatbenchError
from compatbench.files import scratch
from compatbench.files.scratch import LOCK, PREFIX, remove_left_over, scratch_folder

HARNESS = Path(__file__).parents[2] / "benchmark" / "compatbench"
# Makes a folder with a file, says where, and waits for a line.
HOLDER = """
import sys
from compatbench.files.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "file").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""
# Makes folders, one after the other, and looks whether another process takes its own away.
CROWD = """
from compatbench.files.scratch import scratch_folder
print(flush=True)
while True:
    with scratch_folder() as folder:
        for _ in range(20):
            (folder / "file").write_text("here")
            assert (folder / "file").read_text() == "here"
"""

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(scratch.tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def start(temporary: Path) -> Start:
    def start(code: str) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)

    return start


def test_a_folder_is_removed_at_its_end_and_when_its_process_was_killed(
    start: Start, temporary: Path
) -> None:
    killed, alive = start(HOLDER), start(HOLDER)
    folders = []
    for process in (killed, alive):
        assert process.stdout
        folders.append(Path(process.stdout.readline().strip()))
    killed.kill()
    killed.communicate()
    assert all((folder / "inner" / "file").exists() for folder in folders)
    with scratch_folder() as own:
        assert {*temporary.iterdir()} == {own, folders[1]}
        assert [path.name for path in own.iterdir()] == [LOCK]
        remove_left_over()
        assert {*temporary.iterdir()} == {own, folders[1]}
    alive.communicate("\n")
    assert alive.returncode == 0
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_nobody_takes_the_folder_of_a_living_process_away(start: Start, temporary: Path) -> None:
    crowd = [start(CROWD) for _ in range(6)]
    for process in crowd:
        assert process.stdout
        process.stdout.readline()
    for _ in range(30):
        victim = crowd.pop(0)
        victim.kill()
        _, errors = victim.communicate()
        assert (victim.returncode, errors) == (-signal.SIGKILL, "")
        crowd.append(start(CROWD))
    for process in crowd:
        process.kill()
        assert process.communicate()[1] == ""
    remove_left_over()
    assert not list(temporary.iterdir())


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no users")
def test_what_is_not_a_folder_of_ours_stays(
    temporary: Path, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what a link leads to, nor what another user has."""
    elsewhere, me = tmp_path_factory.mktemp("elsewhere"), os.getuid()
    (elsewhere / "mine").touch()
    (temporary / f"{PREFIX}12345678").symlink_to(elsewhere)
    (temporary / f"{PREFIX}abcdefgh").touch()
    (temporary / "compatbench-results").mkdir()
    before = {*temporary.iterdir()}
    with scratch_folder():
        pass
    assert {*temporary.iterdir()} == before
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]
    (other := temporary / f"{PREFIX}hgfedcba").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: me + 1)
        remove_left_over()
    assert {*temporary.iterdir()} == before | {other}


def test_a_folder_for_sockets_has_a_short_path(temporary: Path) -> None:
    with scratch_folder(for_sockets=True) as folder:
        assert len(str(folder)) <= 40
    assert not folder.exists()
    assert len(str(temporary)) > 14


def test_a_temporary_folder_that_cannot_be_written_is_an_error_of_ours(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(temporary / "nowhere"))
    with (
        pytest.raises(CompatbenchError, match=r"cannot write .*nowhere: .*; set TMPDIR"),
        scratch_folder(),
    ):
        pass


def test_the_harness_makes_temporary_folders_in_one_place() -> None:
    found = {
        str(path.relative_to(HARNESS))
        for path in HARNESS.rglob("*.py")
        if re.search(r"\b(mkd?s?temp|TemporaryDirectory|NamedTemporaryFile)\b", path.read_text())
    }
    # It runs in processes that have a folder of their own, which is removed with them.
    assert found == {"files/scratch.py", "extras/check/fit_rules.py"}
