"""Hashes, and atomic writes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compatbench.errors import CompatbenchError
from compatbench.files.atomic import open_atomic, remove_remains, write_atomic
from compatbench.files.hashes import canonical_json, hash_file, sha256_bytes

FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), FULL])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failed_write_leaves_only_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    write_atomic(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, step, fail)
    if error is FULL:
        with pytest.raises(CompatbenchError, match="no room for"):
            write_atomic(tmp_path / "a", b"new")
    else:
        with pytest.raises(type(error)):
            write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("sync", [True, False])
def test_content_is_synced_before_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool
) -> None:
    seen = []

    def fsync(handle: int, real: Callable[[int], None] = os.fsync) -> None:
        mode = os.fstat(handle).st_mode
        kind = "folder" if stat.S_ISDIR(mode) else "file"
        seen.append((kind, (tmp_path / "a").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a", b"one", sync=sync)
    expected = [("file", False), ("folder", True)]
    if not sync:
        expected = []
    assert seen == expected


def test_file_or_folder_in_the_way_is_a_compatbench_error(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "a", tmp_path / "file" / "a"):
        with pytest.raises(CompatbenchError, match="cannot write"):
            write_atomic(path, b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"one")
        assert os.umask(0o027) == 0o027  # unchanged
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_reader_sees_only_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([n]) * 200_000 for n in range(4)]
    write_atomic(path, contents[0])
    done = threading.Event()

    def keep_writing() -> None:
        for n in range(60):
            write_atomic(path, contents[n % 4])
        done.set()

    writer = threading.Thread(target=keep_writing)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= set(contents)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_hash_of_parts_equals_hash_of_the_whole(tmp_path: Path, size: int) -> None:
    content = (bytes(range(256)) * (size // 256 + 1))[:size]
    (tmp_path / "a").write_bytes(content)
    parts = content[: size // 3], content[size // 3 :]
    assert hash_file(tmp_path / "a") == sha256_bytes(*parts) == sha256_bytes(content)
    assert sha256_bytes(content) == hashlib.sha256(content).hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_canonical_json_ignores_the_order_of_keys(
    value: dict[str, object],
) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(dict(reversed(value.items()))) == text
    assert canonical_json({"b": [1, "ä"], "a": None}) == '{"a":null,"b":[1,"ä"]}'


LEFT = ".a.csv.0123456789ab.tmp"


@pytest.mark.parametrize("below", [False, True])
def test_only_remains_of_killed_writers_are_removed(tmp_path: Path, below: bool) -> None:
    kept = [".gitignore", ".mine.tmp", "a.csv", ".a.csv.tmp"]
    inner = tmp_path / "inner" / "aa"
    inner.mkdir(parents=True)
    for folder in (tmp_path, inner):
        for name in (*kept, LEFT):
            (folder / name).touch()
    remove_remains(tmp_path, below=below)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "inner"])
    assert (inner / LEFT).exists() != below
    remove_remains(tmp_path / "nowhere", below=below)


def test_file_that_is_being_written_is_no_remains(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    work = tmp_path / "work"
    with open_atomic(work / "a.csv") as file:
        file.write(b"whole")
        (work / LEFT).symlink_to(outside)
        (work / ".b.csv.0123456789ab.tmp").touch()
        remove_remains(tmp_path, below=True)
        assert len([*work.glob(".a.csv.*.tmp")]) == 2  # this one, and the link
        assert not [*work.glob(".b.csv.*.tmp")]
    assert (work / "a.csv").read_bytes() == b"whole"
    assert outside.exists()


def test_folder_deleted_while_a_file_is_written_is_reported(tmp_path: Path) -> None:
    def write() -> None:
        with open_atomic(tmp_path / "work" / "a.csv"):
            shutil.rmtree(tmp_path / "work")

    with pytest.raises(CompatbenchError, match=r"a\.csv: its folder was deleted meanwhile"):
        write()
