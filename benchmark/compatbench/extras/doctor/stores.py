"""``compatbench store runs`` and ``store cache``: list what is stored, and delete it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd

from compatbench.data.cache_files import default_cache_folder, list_entries, prune_entries
from compatbench.data.cards import select_names
from compatbench.engine.store import DAMAGED, RunStore, read_record
from compatbench.errors import CompatbenchError
from compatbench.files.kinds import delete_paths, kind_of, require
from compatbench.files.sizes import parse_bytes

DAY = 86400
STATES = ("ok", "not transferable", "failed")  # of a cell
COLUMNS = ["key", "state", "method", "task", "source", "shots", "seed", "size", "age", "error"]


def list_runs(
    methods: str = "all", tasks: str = "all", state: str = "all", out: str | Path = "."
) -> pd.DataFrame:
    """List cells: how each ended, its size on disk, its age, and its error.

    Records that are damaged are left out; the next run that needs one sets it aside.

    Args:
        methods: names, globs, comma lists.
        tasks: names, globs, comma lists.
        state: Of ok, not transferable, failed: names, globs, exclusions.

    Returns:
        A row for each; ``size`` is in bytes, of all its files, and ``age`` in seconds.
    """
    store = _open_store(Path(out))
    now = time.time()
    rows = []
    for path in sorted(store.folder.glob("cells/??/*.json")):
        if not _is_stored(store, path):
            continue
        try:
            record = read_record(path)
        except (CompatbenchError, ValueError, OSError):
            continue
        stats = _read_stats([path, *_heavy_files(store, record.key)])
        if path not in stats:
            continue
        rows.append(
            {
                "key": record.key,
                "state": record.state,
                "method": record.method,
                "task": record.task,
                "source": record.source,
                "shots": record.shots,
                "seed": record.seed,
                "size": sum(stat.st_size for stat in stats.values()),
                "age": max(now - stats[path].st_mtime, 0.0),
                "error": "; ".join(dict.fromkeys(record.errors)),
            }
        )
    cells = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    if cells.empty:
        return cells
    chosen = cells["method"].isin(select_names(methods, sorted(set(cells["method"])), "method"))
    chosen &= cells["task"].isin(select_names(tasks, sorted(set(cells["task"])), "task"))
    chosen &= cells["state"].isin(select_names(state, STATES, "state"))
    return cells[chosen].sort_values(["method", "task", "source", "shots", "seed"], kind="stable")


def prune_runs(
    methods: str = "all",
    tasks: str = "all",
    state: str = "all",
    days: float = 30,
    delete: bool = False,
    out: str | Path = ".",
) -> dict[str, list[int]]:
    """Find modules and predictions of old cells, and what damage and killed processes left.

    Records stay: they are small, and are results. A run that needs such a cell makes it again.

    Args:
        methods: of these methods: names, globs, comma lists.
        tasks: of these tasks: names, globs, comma lists.
        state: Of cells that are ok, not transferable or failed: names, globs, exclusions.
        days: Keep files of cells that are younger than this.
        delete: Delete the files; without this, only find them.

    Returns:
        The sizes of the files by what they are.
    """
    store = _open_store(Path(out))
    cells = list_runs(methods, tasks, state, out)
    files = []
    for key in cells["key"][cells["age"] >= days * DAY]:
        files += _heavy_files(store, key)
    latest = time.time() - days * DAY
    remains = _read_stats(_find_remains(store))
    kinds = {
        "of cells": _read_stats(files),
        "damaged, or left by killed processes": {
            path: stat for path, stat in remains.items() if stat.st_mtime <= latest
        },
    }
    sizes = {}
    for kind, stats in kinds.items():
        if delete:
            delete_paths(stats)
        sizes[kind] = [stat.st_size for stat in stats.values()]
    return sizes


def list_cache() -> pd.DataFrame:
    """List what the cache holds, by backbone and task."""
    rows = []
    for entry in list_entries(default_cache_folder()):
        about = entry.about
        rows.append((str(about.get("backbone", "?")), str(about.get("task", "?")), entry.size))
    sizes = pd.DataFrame(rows, columns=["backbone", "task", "size"])
    groups = sizes.groupby(["backbone", "task"])["size"]
    return groups.agg(entries="size", size="sum").reset_index()


def prune_cache(
    size: str | None = None, days: float | None = None, everything: bool = False
) -> list[int]:
    """Delete entries, the oldest first. Nothing is lost: they are computed again when needed.

    Args:
        size: Keep at most this much, such as '10G'.
        days: Delete what is older than this.
        everything: Delete every entry.

    Returns:
        The sizes of the deleted entries.
    """
    if size is None and days is None and not everything:
        raise CompatbenchError(
            "store cache prune: say what to delete: --size 10G, --days 30, or --all"
        )
    most_bytes = None if size is None else parse_bytes(size)
    if everything:
        most_bytes = 0
    most_age = None if days is None else days * DAY
    deleted = prune_entries(default_cache_folder(), most_bytes, most_age)
    return [entry.size for entry in deleted]


def _open_store(out: Path) -> RunStore:
    """Open the store of the runs in a folder."""
    folder = require(out / "runs", "folder")
    if not folder.is_dir():
        raise CompatbenchError(f"{folder} does not exist; 'compatbench run' makes it")
    return RunStore(folder)


def _is_stored(store: RunStore, path: Path) -> bool:
    """Return True if a path is a plain file of the store, to which no link leads."""
    place = store.folder
    for part in path.relative_to(store.folder).parts[:-1]:
        place = place / part
        if kind_of(place) != "folder":
            return False
    return kind_of(path) == "file"


def _heavy_files(store: RunStore, key: str) -> list[Path]:
    """Return the module and the predictions of a cell, as far as they are stored."""
    paths = (store.module_path(key), store.predictions_path(key))
    return [path for path in paths if _is_stored(store, path)]


def _read_stats(paths: Iterable[Path]) -> dict[Path, os.stat_result]:
    """Return the facts of files; leave out what another process has just deleted."""
    stats = {}
    for path in paths:
        with suppress(FileNotFoundError):
            stats[path] = path.lstat()
    return stats


def _find_remains(store: RunStore) -> Iterator[Path]:
    """Yield what a run set aside as damaged, and unfinished files of killed processes."""
    damaged = store.folder / DAMAGED
    if kind_of(damaged) == "folder":
        yield from damaged.iterdir()
    for path in store.folder.rglob("*.tmp"):
        if kind_of(path) == "file":
            yield path
