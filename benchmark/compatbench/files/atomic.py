"""Atomic writes: nothing half-written is ever seen under a final name."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from compatbench.errors import FolderError
from compatbench.files.kinds import kind_of

try:
    import fcntl
except ImportError:  # on Windows, nobody can delete a file that is open
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


def write_atomic(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write ``content`` to ``path`` so that readers see the old file or the whole new one.

    With ``sync``, the file and its name are on the disk before this returns. Without it, a crash
    of the machine (never of the process) within about half a minute can undo the write, or leave
    the file empty or incomplete. Use that only for files whose damage is detected.
    """
    with open_atomic(path, sync=sync) as file:
        file.write(content)


@contextmanager
def open_atomic(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file for writing, and rename it to ``path`` when the block ends.

    ``sync`` is as for ``write_atomic``. If the block raises, the file is deleted. An ``OSError``
    in the block is reported as an error of writing.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with _make_locked(temporary) as file:
                yield file
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if sync and os.name == "posix":  # other systems cannot sync a folder
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        if isinstance(error, FileExistsError):
            raise FolderError(f"cannot write {path}: {path.parent} is not a folder") from None
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> FolderError:
    """Return the error of a file or folder that cannot be written; a full disk has its own fix."""
    if error.errno == errno.ENOSPC:
        return FolderError(f"no room for {path}; make some, and run the command again")
    if error.errno == errno.ENOENT:
        return FolderError(
            f"cannot write {path}: its folder was deleted meanwhile; run the command again"
        )
    return FolderError(f"cannot write {path}: {error.strerror or error}")


def holds(path: Path, content: bytes) -> bool:
    """Return True if a file (not a link to one) exists and has exactly this content."""
    return kind_of(path) == "file" and path.read_bytes() == content


def remove_remains(folder: Path, *, below: bool = False) -> None:
    """Delete the temporary files of killed writers in a folder, and in all folders ``below``.

    Files that another process is writing stay.
    """
    for place, folders, names in os.walk(folder):
        if not below:
            folders.clear()
        for name in names:
            if _TEMPORARY.fullmatch(name):
                # It may be another user's, or be gone, or lie where there are no locks.
                with suppress(OSError):
                    _remove_if_left(Path(place, name))


def _make_locked(path: Path) -> BinaryIO:
    """Make a file, and lock it until it is closed, so that nobody takes it for left over."""
    while True:
        file = path.open("xb")
        with suppress(OSError):  # a file system without locks
            _lock(file.fileno())
        if path.exists():
            return file
        file.close()  # it was deleted before it was locked


def _remove_if_left(path: Path) -> None:
    """Delete a file that nobody is writing; raise ``OSError`` if somebody is."""
    if fcntl is None:
        path.unlink()
        return
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        _lock(handle)
        path.unlink()
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open file until it is closed; raise ``OSError`` if another process has locked it."""
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
