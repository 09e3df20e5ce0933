"""The files of a run store: their checksums, and what may go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import product
from os import stat_result
from pathlib import Path
from stat import S_ISREG
from typing import get_args

from pydantic import ValidationError

from compatbench.backbone.load import locate_weights, planning, read_backbone
from compatbench.data.cards import SuiteCard, TrainingCard, suite_tasks
from compatbench.engine.cell import CellRecord
from compatbench.engine.keys import (
    changed_settings,
    describe_training,
    identify,
    module_key,
    transfer_key,
)
from compatbench.engine.method_settings import resolve_settings
from compatbench.engine.predict import read_predictions
from compatbench.engine.store import DAMAGED, RunStore, read_module, read_record
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import canonical_json
from compatbench.files.kinds import kind_of, require
from compatbench.method.identity import method_identity
from compatbench.method.registry import MethodRegistry

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
        for training in _list_trainings(suite, registry)
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
                for training, key in _keys_now(record, tuple(likeliest), registry):
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


def _list_trainings(suite: SuiteCard, registry: MethodRegistry) -> list[TrainingCard]:
    """Every training that a suite has: its own, and those of methods and tasks that differ."""
    trainings = [suite.training]
    for name in suite.methods:
        if (base := suite.base_method(name)) in registry.classes:
            for task in suite_tasks(suite):
                training = resolve_settings(registry.get(base), suite, name, task).training
                trainings += [training] if training not in trainings else []
    return trainings


def _keys_now(
    record: CellRecord,
    trainings: Iterable[TrainingCard],
    registry: MethodRegistry,
) -> Iterator[tuple[TrainingCard, str]]:
    """The keys that a cell may have now by training, each made when it is asked for."""
    cls, draw = registry.get(record.method), (record.task, record.shots, record.seed)
    try:
        changed = changed_settings(cls, record.config)
    except ValidationError:  # the method has other settings now
        return
    identity = identify(method_identity(cls), cls.card, record.task, record.config)
    for training in trainings:
        key = module_key(identity, changed, record.source, draw, training)
        yield training, transfer_key(key, record.transfer, record.task, record.seed, training)
