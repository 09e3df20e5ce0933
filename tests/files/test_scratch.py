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
# Makes a folder with a file, prints its path, and waits for a line.
HOLDER = """
import sys
from compatbench.files.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "file").touch()
    print(folder, flush=True)
    sys.stdin.readline()
"""
# Makes folders, one after the other, and checks that no other process removes them.
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


def test_scratch_folder_is_removed_at_its_end_or_after_a_kill(
    start: Start, temporary: Path
) -> None:
    killed = start(HOLDER)
    alive = start(HOLDER)
    folders = []
    for process in (killed, alive):
        assert process.stdout
        folders.append(Path(process.stdout.readline().strip()))
    killed.kill()
    killed.communicate()
    for folder in folders:
        assert (folder / "inner" / "file").exists()
    with scratch_folder() as own:
        assert {*temporary.iterdir()} == {own, folders[1]}
        assert [path.name for path in own.iterdir()] == [LOCK]
        remove_left_over()
        assert {*temporary.iterdir()} == {own, folders[1]}
    alive.communicate("\n")
    assert alive.returncode == 0
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_scratch_folder_of_a_living_process_stays(start: Start, temporary: Path) -> None:
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
def test_links_and_folders_of_other_users_stay(
    temporary: Path, tmp_path_factory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the target of a link nor the folder of another user is removed."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    me = os.getuid()
    (elsewhere / "mine").touch()
    (temporary / f"{PREFIX}12345678").symlink_to(elsewhere)
    (temporary / f"{PREFIX}abcdefgh").touch()
    (temporary / "compatbench-results").mkdir()
    before = {*temporary.iterdir()}
    with scratch_folder():
        pass
    assert {*temporary.iterdir()} == before
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]
    other = temporary / f"{PREFIX}hgfedcba"
    other.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: me + 1)
        remove_left_over()
    assert {*temporary.iterdir()} == before | {other}


def test_scratch_folder_for_sockets_has_a_short_path(temporary: Path) -> None:
    with scratch_folder(for_sockets=True) as folder:
        assert len(str(folder)) <= 40
    assert not folder.exists()
    assert len(str(temporary)) > 14


def test_unwritable_temporary_folder_is_a_compatbench_error(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(temporary / "nowhere"))
    with (
        pytest.raises(CompatbenchError, match=r"cannot write .*nowhere: .*; set TMPDIR"),
        scratch_folder(),
    ):
        pass


def test_harness_makes_temporary_folders_in_one_place() -> None:
    makes_folders = re.compile(r"\b(mkd?s?temp|TemporaryDirectory|NamedTemporaryFile)\b")
    found = set()
    for path in HARNESS.rglob("*.py"):
        if makes_folders.search(path.read_text()):
            found.add(str(path.relative_to(HARNESS)))
    # The second runs in processes with a separate folder, which is removed with them.
    assert found == {"files/scratch.py", "extras/check/fit_rules.py"}
