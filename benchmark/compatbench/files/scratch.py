"""Temporary folders that do not pile up: the next process removes what a killed one has left."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of

PREFIX = "compatbench-tmp-"
SHORT = "/tmp"
# Characters; with those of Ray's names below it, a socket's path may have about a hundred.
MOST_FOR_SOCKETS = 14
LOCK = ".lock"
REMOVE_SECONDS = 5.0  # that dying processes may go on writing to a folder


@contextmanager
def scratch_folder(*, for_sockets: bool = False, inside: Path | None = None) -> Iterator[Path]:
    """A folder with a lock file alone, which is removed afterwards; first, those that are left.

    The lock is held until the folder is removed or this process has ended, however it ends.

    Args:
        for_sockets: where the system's folder has a long path, it is in ``/tmp``.
        inside: a folder in place of the system's, where others have to see it.
    """
    remove_left_over(inside)
    root = str(inside or tempfile.gettempdir())
    if for_sockets and len(root) > MOST_FOR_SOCKETS and Path(SHORT).is_dir():
        root = SHORT
    try:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            lock = FileLock(folder / LOCK)
            # Another process may take it for left over until it is locked.
            with suppress(Timeout, FileNotFoundError):
                lock.acquire(timeout=0)
                if (folder / LOCK).exists():
                    break
    except OSError as error:
        fix = "give" if inside else "set TMPDIR to"
        what = f"cannot write {root}: {error.strerror}; {fix} a folder that can be written"
        raise CompatbenchError(what) from None
    try:
        yield folder
    finally:
        give_up = time.monotonic() + REMOVE_SECONDS
        while folder.exists() and time.monotonic() < give_up:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_left_over(inside: Path | None = None) -> None:
    """Removes the folders of this user's processes that were killed."""
    me = os.getuid() if hasattr(os, "getuid") else 0
    places = {tempfile.gettempdir(), SHORT, *([str(inside)] if inside else [])}
    for folder in chain(*(Path(each).glob(f"{PREFIX}*") for each in places)):
        with suppress(OSError, Timeout):
            if folder.lstat().st_uid == me and kind_of(folder) == "folder":
                with FileLock(folder / LOCK, timeout=0):
                    shutil.rmtree(folder)
