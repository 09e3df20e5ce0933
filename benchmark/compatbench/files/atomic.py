"""Hashes and atomic writes: nothing half-written is ever seen under a final name."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any, BinaryIO

from compatbench.errors import CompatbenchError

_TOKEN = 6  # random bytes in the name of a file that is being written
_REMAINS = re.compile(rf"\..+\.[0-9a-f]{{{2 * _TOKEN}}}\.tmp")


def write_atomic(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Writes ``content`` under ``path`` so that readers see the old file or the whole new one.

    Args:
        sync: whether to wait until file and name are on the disk. Without, a crash of the
            machine (never of the process) within about half a minute can take the file
            back, or leave it empty or torn: only for files that tell when they are damaged.

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
    """Removes what killed writers left in a folder; nobody may be writing there.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    try:
        for path in folder.glob(".*.tmp"):
            if _REMAINS.fullmatch(path.name):
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


def sha256_bytes(*parts: bytes) -> str:
    """The SHA-256 of the parts in order, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON: sorted keys, no white space."""
    return sha256_bytes(canonical_json(value).encode())


def canonical_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
