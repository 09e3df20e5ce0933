"""Rewriting files in place: a backup first, each file whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from compatbench.errors import CompatbenchError
from compatbench.files import write_atomic

BACKUP = ".bak"


@dataclass(frozen=True)
class Rewrite:
    """A file of an older layout, and what it becomes.

    Attributes:
        before, after: the whole file's bytes.
        what: the layout that it has, in words.
    """

    path: Path
    before: bytes
    after: bytes
    what: str


def read_file(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        CompatbenchError: it cannot be read, or is a link.
    """
    if path.is_symlink():
        raise CompatbenchError(f"{path} is a link; only files in their own folder are migrated")
    try:
        return path.read_bytes()
    except OSError as error:
        raise CompatbenchError(f"cannot read {path}: {error.strerror}") from None


def write_rewrites(rewrites: Iterable[Rewrite], backup: bool = True) -> None:
    """Writes what was planned. A kill in between leaves whole files; the same command goes on.

    Args:
        backup: whether each file is kept beside itself, as ``<name>.bak``. A backup that is
            there already is never written over: a second one is ``<name>.bak2``.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    for rewrite in rewrites:
        if backup:
            _keep(rewrite.path, rewrite.before)
        write_atomic(rewrite.path, rewrite.after)


def _keep(path: Path, content: bytes) -> None:
    number = 1
    while True:
        copy = path.with_name(f"{path.name}{BACKUP}{number if number > 1 else ''}")
        if not copy.exists():
            return write_atomic(copy, content)
        if read_file(copy) == content:
            return None
        number += 1
