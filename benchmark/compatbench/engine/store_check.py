"""What a run store holds: its cells as a table, its files and their checksums, what may go."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from compatbench.data.cards import SuiteCard, select_names
from compatbench.data.draws import ShotsFiles
from compatbench.engine.cell import CellRecord
from compatbench.engine.locks import is_free
from compatbench.engine.obsolete import find_unwanted
from compatbench.engine.predictions import read_predictions
from compatbench.engine.store import DAMAGED, RunStore, unseal
from compatbench.errors import CompatbenchError
from compatbench.method.module import load_module
from compatbench.method.registry import MethodRegistry

Kind = Literal["record", "module", "predictions"]
STATES = ("ok", "not transferable", "error", "oom", "killed", "timeout")  # of a cell

_FOLDERS: dict[str, tuple[Kind, str]] = {
    "cells": ("record", ".json"),
    "modules": ("module", ".safetensors"),
    "predictions": ("predictions", ".safetensors"),
}
_KEY = re.compile(r"[0-9a-f]{64}")
_UNFINISHED, _LOCK = ".tmp", ".lock"


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


def open_store(out: Path) -> RunStore:
    """The store of the runs in a folder.

    Raises:
        CompatbenchError: there is none.
    """
    folder = out / "runs"
    if not folder.is_dir():
        raise CompatbenchError(f"{folder} does not exist; 'compatbench run' makes it")
    return RunStore(folder)


def list_files(store: RunStore) -> list[StoredFile]:
    """All files of a store by path, without locks, unfinished files and what was set aside.

    Raises:
        CompatbenchError: the folder cannot be read.
    """
    files = []
    for name, (kind, suffix) in _FOLDERS.items():
        for file in _files_below(store.folder / name):
            key, path = file.key, file.path
            known = path.suffix == suffix and _KEY.fullmatch(key) and path.parent.name == key[:2]
            if path.suffix not in (_UNFINISHED, _LOCK):
                files.append(replace(file, kind=kind) if known else file)
    return files


def _files_below(folder: Path) -> list[StoredFile]:
    found = []
    now = time.time()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            with suppress(FileNotFoundError):  # another process has moved or removed it
                stat = path.stat()
                age = max(now - stat.st_mtime, 0.0)
                found.append(StoredFile(path, None, path.stem, stat.st_size, age))
    except OSError as error:
        raise CompatbenchError(f"cannot read {folder}: {error.strerror}") from None
    return found


def read_record(file: StoredFile) -> CellRecord:
    """The record in a file, which stays where it is even if it is damaged.

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
                continue  # 'find_problems' names it
    return records


def list_cells(
    store: RunStore, methods: str = "all", tasks: str = "all", states: str = "all"
) -> pd.DataFrame:
    """The cells of a store, one row each.

    Args:
        methods, tasks, states: names, globs, comma lists, exclusions.

    Returns:
        Columns ``key``, ``state``, ``method``, ``task``, ``source``, ``shots``, ``seed``,
        ``records``, ``size`` (bytes of all files of the cell) and ``age`` (seconds).

    Raises:
        CompatbenchError: a name that no cell has, or a folder that cannot be read.
    """
    files = list_files(store)
    records = list(read_records(files).values())
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.key] += file.size
    ages = {file.key: file.age for file in files if file.kind == "record"}
    wanted: dict[str, list[str]] = {}
    if records:
        wanted = {
            "method": select_names(methods, sorted({r.method for r in records}), "method"),
            "task": select_names(tasks, sorted({r.task for r in records}), "task"),
            "state": select_names(states, STATES, "state"),
        }
    names = ("key", "state", "method", "task", "source", "shots", "seed")
    rows = [
        [*(getattr(r, name) for name in names), len(r.records), sizes[r.key], ages[r.key]]
        for r in sorted(records, key=lambda r: (r.method, r.task, r.source, r.shots, r.seed))
        if all(getattr(r, name) in chosen for name, chosen in wanted.items())
    ]
    return pd.DataFrame(rows, columns=pd.Index([*names, "records", "size", "age"]))


def find_record(store: RunStore, prefix: str) -> CellRecord:
    """The record of the one cell whose key begins like this.

    Raises:
        CompatbenchError: no cell's does, or several cells' do, or the record is damaged.
    """
    files = [file for file in list_files(store) if file.kind == "record"]
    found = [file for file in files if file.key.startswith(prefix.lower())]
    if not found:
        raise CompatbenchError(
            f"{store.folder} holds no cell whose key begins with '{prefix}'; see 'compatbench runs "
            "ls'"
        )
    if len(found) > 1:
        raise CompatbenchError(
            f"{len(found)} cells have keys that begin with '{prefix}'; give more of it, such as "
            f"'{found[0].key[: len(prefix) + 8]}'"
        )
    try:
        return read_record(found[0])
    except (ValueError, OSError):
        raise CompatbenchError(
            f"the record of {found[0].key} is damaged; see 'compatbench runs verify'"
        ) from None


def find_problems(files: Sequence[StoredFile]) -> dict[Path, str]:
    """Reads every file, and compares it with its checksum, its name and its record.

    Returns:
        By path, why a file is not what it should be.
    """
    records = read_records(files)
    problems = {}
    for file in files:
        try:
            why = _find_problem(file, records.get(file.key))
        except FileNotFoundError:
            continue  # another process has moved it
        except (CompatbenchError, ValueError, OSError) as error:
            why = str(error).splitlines()[0].removeprefix(f"{file.path} ")
        if why:
            problems[file.path] = why
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
            return "is not the module of its record"
    return ""


@dataclass(frozen=True)
class Waste:
    """Files of a store that may be deleted.

    Attributes:
        cells: how many cells no plan asks for any more.
        files: modules and predictions of these cells, and their records if asked for.
        remains: what was set aside as damaged, and what killed processes left.
    """

    cells: int
    files: list[StoredFile]
    remains: list[StoredFile]


def find_waste(
    store: RunStore,
    suites: Iterable[SuiteCard],
    registry: MethodRegistry,
    draws: ShotsFiles | None = None,
    *,
    records: bool = False,
) -> Waste:
    """The files that no plan of these suites asks for any more; see ``find_unwanted``.

    Args:
        draws: draws that are given and not made here.
        records: count the records of such cells, too; they are small, and are results.

    Raises:
        CompatbenchError: a broken card or method, or a folder that cannot be read.
    """
    files = list_files(store)
    unwanted = find_unwanted(read_records(files), suites, registry, draws)
    kinds = ("module", "predictions", *(["record"] if records else []))
    remains = [
        file
        for file in _files_below(store.folder)
        if file.path.suffix == _UNFINISHED
        or file.path.is_relative_to(store.folder / DAMAGED)
        or (_is_claim(store, file.path) and is_free(file.path))
    ]
    stale = [file for file in files if file.key in unwanted and file.kind in kinds]
    return Waste(len(unwanted), stale, remains)


def _is_claim(store: RunStore, path: Path) -> bool:
    return path.suffix == _LOCK and path.is_relative_to(store.folder / "cells")


def delete_files(files: Iterable[StoredFile]) -> None:
    """Deletes files.

    Raises:
        CompatbenchError: one cannot be deleted.
    """
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise CompatbenchError(f"cannot delete {file.path}: {error.strerror}") from None
