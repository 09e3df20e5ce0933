"""Locks between processes: files that the system unlocks when their holder ends."""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from compatbench.errors import CompatbenchWarning

WAIT_SECONDS = 1.0  # between two calls of ``on_wait``
# The errors of a file system without locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def acquire_lock(path: Path, folder: Path, on_wait: Callable[[], object] | None = None) -> FileLock:
    """Lock a file, and return the lock, which the caller releases.

    On a file system without locks, warn, and return a lock that is not held.

    Args:
        folder: the shared folder that the warning names.
        on_wait: called every second while another process holds the lock. None means do not wait.

    Raises:
        Timeout: another process holds the lock, and ``on_wait`` is None.
        OSError: the file cannot be written.
    """
    # The soft lock of filelock is a file that outlives a holder on another machine.
    lock = FileLock(path, fallback_to_soft=False)
    while True:
        try:
            lock.acquire(timeout=0 if on_wait is None else WAIT_SECONDS)
            return lock
        except Timeout:  # it is also an OSError
            if on_wait is None:
                raise
            on_wait()
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warnings.warn(
                f"{folder} lies on a file system without locks: two runs at once may do the same "
                "work twice",
                CompatbenchWarning,
                stacklevel=3,
            )
            return lock
