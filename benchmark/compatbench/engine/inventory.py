"""What a run store holds, file by file: listed, held against its checksums, cleaned."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compatbench.engine.cell import CellRecord
from compatbench.engine.locks import is_free
from compatbench.engine.predictions import read_predictions
from compatbench.engine.store import DAMAGED, RunStore, unseal
from compatbench.errors import CompatbenchError
from compatbench.method.module import load_module

Kind = Literal["record", "module", "predictions"]

_FOLDERS: dict[str, tuple[Kind, str]] = {
    "cells": ("record", ".json"),
    "modules": ("module", ".safetensors"),
    "predictions": ("predictions", ".safetensors"),
}
_KEY = re.compile(r"[0-9a-f]{64}")
_REMAINS = (".tmp", ".lock")  # of a write, and of a claim


@dataclass(frozen=True)
class StoredFile:
    """A file of a store.

    Attributes:
        kind: None if it does not belong there.
        key: of its cell.
        size: bytes.
        age: seconds since it was written.
    """

    path: Path
    kind: Kind | None
    key: str
    size: int
    age: float


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be, and why."""

    path: Path
    why: str


def list_files(store: RunStore) -> list[StoredFile]:
    """All files of a store but what was set aside, and what is at work; by path.

    Raises:
        CompatbenchError: the folder cannot be read.
    """
    try:
        found = [file for name in _FOLDERS for file in _files(store.folder / name)]
    except OSError as error:
        raise CompatbenchError(f"cannot read {store.folder}: {error.strerror}") from None
    return sorted(found, key=lambda file: file.path)


def _files(folder: Path) -> Iterator[StoredFile]:
    kind, suffix = _FOLDERS[folder.name]
    now = time.time()
    for path in folder.rglob("*"):
        if path.suffix in _REMAINS or path.is_dir():
            continue
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue  # moved or removed meanwhile
        key = path.stem
        at_home = path.suffix == suffix and _KEY.fullmatch(key) and path.parent.name == key[:2]
        age = max(now - stat.st_mtime, 0.0)
        yield StoredFile(path, kind if at_home else None, key, stat.st_size, age)


def read_record(file: StoredFile) -> CellRecord:
    """The record in a file, which stays where it is whatever it holds.

    Raises:
        ValueError: it is damaged, or another cell's.
        OSError: it cannot be read.
    """
    record = unseal(file.path.read_bytes())
    if record.key != file.key:
        raise ValueError("the key is another cell's")
    return record


def read_records(files: Iterable[StoredFile]) -> dict[str, CellRecord]:
    """The records that can be read, by key."""
    records = {}
    for file in files:
        if file.kind == "record":
            try:
                records[file.key] = read_record(file)
            except (ValueError, OSError):
                continue  # 'verify' tells of it
    return records


def find_problems(store: RunStore, files: Sequence[StoredFile]) -> list[Problem]:
    """Reads every file, and holds it against its checksum, its name and its record."""
    records = read_records(files)
    problems = []
    for file in files:
        try:
            why = _find_problem(file, records.get(file.key))
        except FileNotFoundError:
            continue  # another process has moved it
        except (CompatbenchError, ValueError, OSError) as error:
            why = str(error).splitlines()[0].removeprefix(f"{file.path} ")
        if why:
            problems.append(Problem(file.path, why))
    return problems


def _find_problem(file: StoredFile, record: CellRecord | None) -> str:
    if file.kind is None:
        return "is no file of a run store"
    if file.kind == "record":
        read_record(file)
    elif file.kind == "predictions":
        read_predictions(file.path, file.key)
    else:
        module, about = load_module(file.path)
        if about.get("key") != file.key:
            return "is another cell's module"
        if record is not None and record.module and record.module != module.fingerprint:
            return "is not the module that its record tells of"
    return ""


def find_key(store: RunStore, prefix: str) -> str:
    """The key of the one cell that begins like this.

    Raises:
        CompatbenchError: none does, or several do.
    """
    keys = sorted({file.key for file in list_files(store) if file.kind == "record"})
    found = [key for key in keys if key.startswith(prefix.lower())]
    if len(found) == 1:
        return found[0]
    if not found:
        raise CompatbenchError(
            f"{store.folder} holds no cell whose key begins with '{prefix}'; see 'compatbench runs "
            "ls'"
        )
    raise CompatbenchError(
        f"{len(found)} cells have keys that begin with '{prefix}'; give more of it, such as "
        f"'{found[0][: len(prefix) + 8]}'"
    )


def find_remains(store: RunStore) -> list[StoredFile]:
    """What was set aside as damaged, and what killed writers and free claims left behind."""
    found = []
    now = time.time()
    for path in store.folder.rglob("*"):
        aside = path.is_relative_to(store.folder / DAMAGED)
        claim = path.suffix == ".lock" and path.is_relative_to(store.folder / "cells")
        if not (aside or path.suffix == ".tmp" or (claim and is_free(path))):
            continue
        if path.is_file():
            stat = path.stat()
            found.append(StoredFile(path, None, path.stem, stat.st_size, now - stat.st_mtime))
    return sorted(found, key=lambda file: file.path)
