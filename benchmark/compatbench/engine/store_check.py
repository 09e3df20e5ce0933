"""What a run store holds: its cells as a table, its files and their checksums, what may go."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from os import stat_result
from pathlib import Path
from stat import S_ISREG
from typing import get_args

import pandas as pd
from pydantic import ValidationError

from compatbench.backbone.load import locate_weights, planning, read_backbone
from compatbench.data.cards import SuiteCard, TrainingCard, select_names
from compatbench.data.draws import ShotsFiles
from compatbench.engine.cell import CellRecord, FailureKind
from compatbench.engine.keys import (
    changed_settings,
    describe_training,
    fit_key,
    identify,
    module_key,
    transfer_key,
)
from compatbench.engine.method_settings import suite_trainings
from compatbench.engine.predict import read_predictions
from compatbench.engine.store import DAMAGED, RunStore, read_module, read_record
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import canonical_json
from compatbench.files.kinds import kind_of, require
from compatbench.method.identity import method_identity
from compatbench.method.registry import MethodRegistry

STATES = ("ok", "not transferable", *get_args(FailureKind))  # of a cell
# Where a store has the files of its cells, each named by the cell's key.
RECORDS = "cells/??/*.json"
MODULES = "modules/??/*.safetensors"
PREDICTIONS = "predictions/??/*.safetensors"

Files = dict[Path, stat_result]


def open_store(out: Path) -> RunStore:
    """The store of the runs in a folder."""
    folder = require(out / "runs", "folder")
    if not folder.is_dir():
        raise CompatbenchError(f"{folder} does not exist; 'compatbench run' makes it")
    return RunStore(folder)


def find_files(store: RunStore, patterns: Iterable[str] = (RECORDS, MODULES, PREDICTIONS)) -> Files:
    """The files of a store that these patterns mean, by path, in folders of their own.

    No link is followed: links, and all else that stands in place of a file or folder, are
    among what is found.
    """
    paths = list[Path]()
    for pattern in patterns:
        *folders, files = pattern.split("/")
        places = [store.folder]
        for part in folders:
            inner = [place / part for place in places]
            if "?" in part:
                inner = [path for place in places for path in place.glob(part)]
            places = [path for path in inner if kind_of(path) == "folder"]
            paths += set(inner).difference(places)
        paths += [path for place in places for path in place.glob(files)]
    stats = {}
    for path in sorted(paths, key=str):  # ten times as fast as by the parts of paths
        with suppress(FileNotFoundError):  # another process has moved or removed it
            stats[path] = path.lstat()
    return stats


def read_records(files: Iterable[Path]) -> Iterator[CellRecord]:
    """The records that can be read, one at a time: all of a large store would fill the memory."""
    for path in files:
        if path.match(RECORDS):
            with suppress(ValueError, OSError, CompatbenchError):  # 'find_problems' names it
                yield read_record(path)


def list_cells(
    store: RunStore, methods: str = "all", tasks: str = "all", states: str = "all"
) -> pd.DataFrame:
    """The cells of a store that these names, globs and exclusions mean, one row each.

    ``size`` is in bytes, of all files of the cell, and ``age`` in seconds.
    """
    files, now = find_files(store), time.time()
    sizes: Counter[str] = Counter()
    for path, stat in files.items():
        sizes[path.stem] += stat.st_size
    names = ("key", "state", "method", "task", "source", "shots", "seed")
    rows = []
    for record in read_records(files):
        age = max(now - files[store.cell_path(record.key)].st_mtime, 0.0)
        values = [getattr(record, name) for name in names]
        rows.append((*values, len(record.records), sizes[record.key], age))
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
    paths = [path for path in find_files(store, [RECORDS]) if path.stem.startswith(prefix.lower())]
    if not paths:
        raise CompatbenchError(
            f"{store.folder} holds no cell whose key begins with '{prefix}'; "
            "'compatbench store runs ls' lists them"
        )
    if len(paths) > 1:
        raise CompatbenchError(
            f"{len(paths)} cells have keys that begin with '{prefix}'; give more of it, such as "
            f"'{paths[0].stem[: len(prefix) + 8]}'"
        )
    try:
        return read_record(paths[0])
    except ValueError as error:
        raise CompatbenchError(f"{paths[0]} is damaged: {str(error).splitlines()[0]}") from None


def find_problems(files: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with files of a store, by path; those that are intact are left out."""
    problems, modules = {}, {record.key: record.module for record in read_records(files)}
    for path in files:
        try:
            if require(path, "file" if path.suffix else "folder").match(RECORDS):
                read_record(path)
            elif path.match(PREDICTIONS):
                read_predictions(path, path.stem)
            else:
                read_module(path, modules.get(path.stem, ""))
        except FileNotFoundError:
            continue  # another process has moved it
        except (CompatbenchError, ValueError, OSError) as error:
            problems[path] = str(error).splitlines()[0].removeprefix(f"{path} ")
    return problems


@dataclass(frozen=True)
class Waste:
    """Files of a store that may be deleted."""

    cells: int  # that are obsolete
    files: Files  # modules and predictions of these cells
    remains: Files  # what is no file, or was set aside as damaged; what killed processes left


def find_waste(
    store: RunStore,
    suites: Iterable[SuiteCard],
    registry: MethodRegistry,
    draws: ShotsFiles | None = None,
) -> Waste:
    """The files of cells that would have another key now, with any suite's training; remains.

    What cannot be told here is not obsolete: cells of methods that are not here, and of images
    or weights that are not on this machine.
    """
    files, obsolete = find_files(store), set()
    precisions = get_args(TrainingCard.model_fields["precision"].annotation)
    trained = [
        training.model_copy(update={"precision": precision})
        for suite, precision in product(suites, precisions)
        for training in suite_trainings(suite, registry)
    ]
    trainings = {canonical_json(describe_training(training)): training for training in trained}
    # By method, the training that its last cell had first.
    likely = defaultdict[str, list[TrainingCard]](lambda: list(trainings.values()))
    locate = cache(lambda name: locate_weights(read_backbone(name)))
    with planning():  # nothing is fetched
        for record in read_records(files):
            with suppress(CompatbenchError):
                locate(record.source)
                likeliest = likely[record.method]
                for training, key in _keys_now(record, tuple(likeliest), registry, draws or {}):
                    if key == record.key:
                        likeliest.remove(training)
                        likeliest.insert(0, training)
                        break
                else:
                    obsolete.add(record.key)
    stale = {
        path: stat
        for path, stat in files.items()
        if path.stem in obsolete and not path.match(RECORDS)  # small, and a result
    }
    remains = find_files(store, [f"{DAMAGED}/*"])
    # What stands in place of a file, or of a folder, which has no suffix.
    remains |= {p: stat for p, stat in files.items() if not (S_ISREG(stat.st_mode) and p.suffix)}
    for path in store.folder.rglob("*.tmp"):
        with suppress(FileNotFoundError):
            remains[path] = path.lstat()
    return Waste(len(obsolete), stale, remains)


def _keys_now(
    record: CellRecord,
    trainings: Iterable[TrainingCard],
    registry: MethodRegistry,
    draws: ShotsFiles,
) -> Iterator[tuple[TrainingCard, str]]:
    """The keys that a cell may have now by training, each made when it is asked for."""
    cls, shots, seed = registry.get(record.method), record.shots, record.seed
    draw = (record.task, shots, seed)
    try:
        changed = changed_settings(cls, record.config)
    except ValidationError:  # the method has other settings now
        return
    identity = identify(method_identity(cls), cls.card, record.task, record.config)
    for file, training in product({None, draws.get(draw)}, trainings):
        data = fit_key(record.source, *draw, file, training.val_shots)
        key = module_key(identity, changed, data, shots, seed, training)
        yield training, transfer_key(key, record.transfer, record.task, seed, training)
