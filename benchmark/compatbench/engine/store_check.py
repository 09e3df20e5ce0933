"""What a run store holds: its cells as a table, its files and their checksums, what may go."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import get_args

import pandas as pd
from filelock import FileLock, Timeout

from compatbench.data.cards import SuiteCard, select_names, suite_tasks
from compatbench.data.draws import ShotsFiles
from compatbench.engine.cell import CellRecord, FailureKind
from compatbench.engine.measure import read_predictions
from compatbench.engine.missing import find_missing
from compatbench.engine.plan import plan_cells
from compatbench.engine.store import DAMAGED, RunStore, read_record
from compatbench.errors import CompatbenchError
from compatbench.method import load_module
from compatbench.method.registry import MethodRegistry

STATES = ("ok", "not transferable", *get_args(FailureKind))  # of a cell
PRECISIONS = ("fp32", "bf16")

_KINDS = {
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
        kind: ``record``, ``module``, ``predictions``, or empty if it does not belong there.
        key: of its cell.
        size: bytes.
        age: seconds since it was written.
    """

    path: Path
    kind: str
    key: str
    size: int
    age: float


def open_store(out: Path) -> RunStore:
    """The store of the runs in a folder."""
    folder = out / "runs"
    if not folder.is_dir():
        raise CompatbenchError(f"{folder} does not exist; 'compatbench run' makes it")
    return RunStore(folder)


def list_files(store: RunStore) -> list[StoredFile]:
    """All files of a store by path, without locks, unfinished files and what was set aside."""
    files = [file for name in _KINDS for file in _files_below(store.folder / name, name)]
    return [file for file in files if file.path.suffix not in (_UNFINISHED, _LOCK)]


def _files_below(folder: Path, name: str = "") -> list[StoredFile]:
    """Files, with their kind if the folder is that of this name in a store."""
    kind, suffix = _KINDS.get(name, ("", ""))
    found, now = [], time.time()
    try:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            key = path.stem
            known = path.suffix == suffix and _KEY.fullmatch(key) and path.parent.name == key[:2]
            with suppress(FileNotFoundError):  # another process has moved or removed it
                stat = path.stat()
                age = max(now - stat.st_mtime, 0.0)
                found.append(StoredFile(path, kind if known else "", key, stat.st_size, age))
    except OSError as error:
        raise CompatbenchError(f"cannot read {folder}: {error.strerror}") from None
    return found


def read_records(files: Iterable[StoredFile]) -> dict[str, CellRecord]:
    """The records that can be read, by key."""
    records = {}
    for file in files:
        if file.kind == "record":
            with suppress(ValueError, OSError):  # 'find_problems' names it
                records[file.key] = read_record(file.path)
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
    """
    files = list_files(store)
    sizes: Counter[str] = Counter()
    for file in files:
        sizes[file.key] += file.size
    ages = {file.key: file.age for file in files if file.kind == "record"}
    names = ("key", "state", "method", "task", "source", "shots", "seed")
    rows = [
        (*(getattr(r, name) for name in names), len(r.records), sizes[r.key], ages[r.key])
        for r in read_records(files).values()
    ]
    frame = pd.DataFrame(rows, columns=pd.Index([*names, "records", "size", "age"]))
    chosen = pd.Series(data=True, index=frame.index)
    for column, wanted in (("method", methods), ("task", tasks), ("state", states)):
        known = STATES if column == "state" else sorted(set(frame[column]))
        if rows:
            chosen &= frame[column].isin(select_names(wanted, known, column))
    order = ["method", "task", "source", "shots", "seed"]
    return frame.sort_values(order, kind="stable").loc[chosen]


def find_record(store: RunStore, prefix: str) -> CellRecord:
    """The record of the one cell whose key begins like this."""
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
        return read_record(found[0].path)
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
    if file.kind == "record":
        read_record(file.path)
    elif file.kind == "predictions":
        read_predictions(file.path, file.key)
    elif file.kind == "module":
        module = load_module(file.path)
        if module.about.get("key") != file.key:
            return "is another cell's module"
        if record is not None and record.module and record.module != module.fingerprint:
            return "is not the module of its record"
    else:
        return "is no file of a run store"
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
    """The files that no plan of these suites asks for any more; see ``find_obsolete``.

    Args:
        draws: draws that are given and not made here.
        records: count the records of such cells, too; they are small, and are results.
    """
    files = list_files(store)
    obsolete = find_obsolete(read_records(files), suites, registry, draws)
    kinds = ("module", "predictions", *(["record"] if records else []))
    stale = [file for file in files if file.key in obsolete and file.kind in kinds]
    remains = [
        file
        for file in _files_below(store.folder)
        if file.path.suffix == _UNFINISHED
        or file.path.is_relative_to(store.folder / DAMAGED)
        or (file.path == store.claim_path(file.key) and _is_free(file.path))
    ]
    return Waste(len(obsolete), stale, remains)


def _is_free(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


def find_obsolete(
    records: Mapping[str, CellRecord],
    suites: Iterable[SuiteCard],
    registry: MethodRegistry,
    draws: ShotsFiles | None = None,
) -> set[str]:
    """Keys of stored cells that would be run again, under another key, if they were asked for.

    A cell counts as wanted if one of the suites gives its key for some of the shots, seeds and
    precisions that are stored, whether the suite itself has them or not. What cannot be told
    here is wanted, too: cells of methods that are not here, of tasks in no suite, and of images
    or weights that are not on this machine.
    """
    wanted: set[str] = set()
    known: set[tuple[str, str, str]] = set()
    for suite in suites:
        missing = find_missing(suite)
        tasks = [task for task in suite_tasks(suite) if task not in missing.test_sets]
        for name in [*registry.names(), *suite.configs]:
            method = suite.base_method(name)
            mine = [r for r in records.values() if r.method == method and r.task in tasks]
            if not mine or method not in registry.classes:
                continue
            shots = sorted({*suite.shots, *(record.shots for record in mine)})
            seeds = sorted({*suite.seeds, *(record.seed for record in mine)})
            for precision, given in product(PRECISIONS, ({}, draws or {})):
                training = suite.training.model_copy(update={"precision": precision})
                variant = suite.model_copy(update={"training": training})
                cells = plan_cells(variant, registry, [name], tasks, seeds, shots, given, missing)
                wanted |= {cell.key for cell in cells}
                known |= {(cell.method, cell.task, cell.source) for cell in cells}
    return {
        key
        for key, record in records.items()
        if key not in wanted and (record.method, record.task, record.source) in known
    }


def delete_files(files: Iterable[StoredFile]) -> None:
    """Deletes files."""
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise CompatbenchError(f"cannot delete {file.path}: {error.strerror}") from None
