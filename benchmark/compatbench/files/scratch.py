"""Temporary folders that do not pile up: the next process deletes those of killed ones."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from compatbench.errors import CompatbenchError
from compatbench.files.kinds import kind_of

PREFIX = "compatbench-tmp-"
SHORT = "/tmp"
# In characters. A socket's path, with Ray's names in it, may have about a hundred.
MOST_FOR_SOCKETS = 14
LOCK = ".lock"
REMOVE_SECONDS = 5.0  # for which dying processes may continue to write to a folder


@contextmanager
def scratch_folder(*, for_sockets: bool = False, inside: Path | None = None) -> Iterator[Path]:
    """Make a folder that contains only a lock file, and delete it when the block ends.

    Delete the folders of killed processes first. The lock is held until the folder is deleted or
    this process has ended, however it ends.

    Args:
        for_sockets: use ``/tmp`` if the path of the system's temporary folder is long.
        inside: a folder to use instead of the system's, so that other processes can see it.
    """
    remove_left_over(inside)
    root = str(inside or tempfile.gettempdir())
    if for_sockets and len(root) > MOST_FOR_SOCKETS and Path(SHORT).is_dir():
        root = SHORT
    try:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
            lock = FileLock(folder / LOCK)
            # Until it is locked, another process may take it for left over and delete it.
            with suppress(Timeout, FileNotFoundError):
                lock.acquire(timeout=0)
                if (folder / LOCK).exists():
                    break
    except OSError as error:
        fix = "give" if inside else "set TMPDIR to"
        problem = f"cannot write {root}: {error.strerror}"
        raise CompatbenchError(f"{problem}; {fix} a folder that can be written") from None
    try:
        yield folder
    finally:
        give_up = time.monotonic() + REMOVE_SECONDS
        while folder.exists() and time.monotonic() < give_up:
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_left_over(inside: Path | None = None) -> None:
    """Delete the scratch folders of this user's processes that were killed."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    places = {tempfile.gettempdir(), SHORT}
    if inside:
        places.add(str(inside))
    for place in places:
        for folder in Path(place).glob(f"{PREFIX}*"):
            with suppress(OSError, Timeout):
                if folder.lstat().st_uid == user and kind_of(folder) == "folder":
                    with FileLock(folder / LOCK, timeout=0):
                        shutil.rmtree(folder)
