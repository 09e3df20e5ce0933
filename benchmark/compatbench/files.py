"""Hashes and atomic writes: nothing half-written is ever seen under a final name."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from compatbench.errors import CompatbenchError


def write_atomic(path: Path, content: bytes) -> None:
    """Writes ``content`` under ``path`` so that readers see the old file or the whole new one.

    Raises:
        CompatbenchError: the folder cannot be written, or the disk is full.
    """

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic_with(path, write)


def write_atomic_with(path: Path, write: Callable[[Path], object]) -> None:
    """As ``write_atomic``, for libraries that insist on writing a file themselves."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
    except OSError as error:
        raise CompatbenchError(f"cannot write {path}: {error.strerror or error}") from None
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise CompatbenchError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


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
