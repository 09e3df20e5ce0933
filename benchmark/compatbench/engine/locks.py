"""Who runs a cell: one process at a time, whatever machines share the store.

A claim is a lock of the system (flock) on a file beside the cell's record. The system frees it
when its holder ends, however it ends, so no claim outlives a crash and nothing has to guess
whether a holder is still alive. On network file systems the server does the same: NFS from
version 4 on, and Lustre mounted with ``flock``, free a dead machine's locks after about a
minute. Where there are no locks, cells may be run twice, which costs time and changes nothing:
records are written whole, and equal keys give equal records.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from compatbench.engine.store import RunStore
from compatbench.errors import CompatbenchError, CompatbenchWarning

# What a file system without locks reports.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@dataclass
class Claim:
    """The right to run a cell.

    Attributes:
        held: False if another process has it.
        done: set by the holder when there is nothing left to run; the lock file then goes.
    """

    held: bool
    done: bool = False


@contextmanager
def claim(store: RunStore, key: str) -> Iterator[Claim]:
    """Claims a cell, without waiting. Its record has to be read again under the claim.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    # Beside the record: making a file in a folder is what lets a network file system see
    # which records others have just made there.
    path = store.claim_path(key)
    with locked(store, path, wait=False) as held:
        mine = Claim(held)
        try:
            yield mine
        finally:
            # Only where the record says it all: whoever still gets the lock of the removed
            # file reads that, and runs nothing.
            if mine.held and mine.done:
                path.unlink(missing_ok=True)


def is_free(path: Path) -> bool:
    """Whether nobody holds a lock file."""
    try:
        with FileLock(path, timeout=0):
            return True
    except (Timeout, OSError):
        return False


@contextmanager
def publishing(store: RunStore) -> Iterator[None]:
    """Waits until no other run of a store writes results, and keeps others from it meanwhile.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    with locked(store, store.folder / "results.lock", wait=True):
        yield


@contextmanager
def locked(store: RunStore, path: Path, wait: bool) -> Iterator[bool]:
    """Holds a lock file in a store; yields False if another process holds it.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    store.check_folder()
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise CompatbenchError(f"cannot write {path}: {error.strerror or error}") from None
        warnings.warn(
            f"{path} lies on a file system without locks: of two runs at once, both may run a cell",
            CompatbenchWarning,
            stacklevel=3,
        )
    try:
        yield True
    finally:
        lock.release()
