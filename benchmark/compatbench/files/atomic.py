"""Atomic writes: nothing half-written is ever seen under a final name."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from compatbench.errors import CompatbenchError

_TOKEN = 6  # random bytes in the name of a temporary file
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{{2 * _TOKEN}}}\.tmp")


def write_atomic(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Writes ``content`` to ``path`` so that readers see the old file or the whole new one.

    Args:
        sync: whether to wait until file and name are on the disk. Without, a crash of the
            machine (never of the process) within about half a minute can undo the write, or
            leave the file empty or incomplete: only for files whose damage is detected.

    Raises:
        CompatbenchError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            try:
                file.write(content)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
                file.close()
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        if sync:
            _sync_folder(path.parent)
    except OSError as error:
        raise CompatbenchError(f"cannot write {path}: {error.strerror or error}") from None


def remove_remains(folder: Path) -> None:
    """Removes the temporary files of killed writers; nobody may be writing in the folder.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    try:
        for path in folder.glob(".*.tmp"):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise CompatbenchError(f"cannot write {folder}: {error.strerror or error}") from None


def _sync_folder(folder: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system has a way to."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
