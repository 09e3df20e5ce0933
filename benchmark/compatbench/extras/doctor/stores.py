"""``compatbench store runs`` and ``store cache``: look at, verify and clean what is on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import print_facts, print_frame, say
from compatbench.data.cache_files import (
    default_cache_folder,
    list_entries,
    prune_entries,
    read_entry,
)
from compatbench.data.cards import select_names, suite_cards
from compatbench.data.cards.shots import show_shots
from compatbench.engine.cell import CellRecord
from compatbench.engine.store import read_record
from compatbench.errors import CompatbenchError
from compatbench.extras.doctor.store_files import (
    RECORDS,
    find_files,
    find_problems,
    find_waste,
    open_store,
    read_records,
)
from compatbench.files.kinds import delete_paths
from compatbench.files.sizes import format_bytes, parse_bytes
from compatbench.messages import format_seconds
from compatbench.method.registry import builtin_methods

DAY = 86400
STATES = ("ok", "not transferable", "failed")  # of a cell


def list_runs(
    methods: str = "all", tasks: str = "all", state: str = "all", out: str | Path = "."
) -> pd.DataFrame:
    """Lists cells: how each ended, its size on disk and its age.

    Args:
        methods: names, globs, comma lists.
        tasks: names, globs, comma lists.
        state: Of ok, not transferable, failed: names, globs, exclusions.

    Returns:
        A row for each; ``size`` is in bytes, of all its files, and ``age`` in seconds.
    """
    store, now, rows = open_store(Path(out)), time.time(), []
    files, sizes = find_files(store), Counter[str]()
    for path, stat in files.items():
        sizes[path.stem] += stat.st_size
    names = ("key", "state", "method", "task", "source", "shots", "seed")
    for record in read_records(files):
        age = max(now - files[store.cell_path(record.key)].st_mtime, 0.0)
        values = [getattr(record, name) for name in names]
        rows.append((*values, len(record.records), sizes[record.key], age))
    frame = pd.DataFrame(rows, columns=pd.Index([*names, "records", "size", "age"]))
    chosen = pd.Series(data=True, index=frame.index)
    for column, wanted in (("method", methods), ("task", tasks), ("state", state)):
        known = STATES if column == "state" else sorted(set(frame[column]))
        if rows:
            chosen &= frame[column].isin(select_names(wanted, known, column))
    order = ["method", "task", "source", "shots", "seed"]
    return frame.sort_values(order, kind="stable").loc[chosen]


def show_runs(call: Call) -> None:
    """Shows the cells, and how much they take."""
    if call.prints_json(cells := call()):
        return
    size = format_bytes(cells["size"].sum())
    shown = {
        "key": cells["key"].str[:12],
        "shots": cells["shots"].map(show_shots),
        "size": cells["size"].map(format_bytes),
        "age": cells["age"].map(format_seconds),
    }
    narrow = ("records", "source", "size")
    print_frame(cells.assign(**shown), right=("shots", "size", "age"), narrow=narrow)
    say(escape(f"{len(cells)} cells, {size}, in {Path(call.arguments['out'], 'runs')}"))


def show_run(key: str, out: str | Path = ".") -> CellRecord:
    """Shows all that is stored of one cell.

    Args:
        key: The beginning of a cell's key, as 'ls' shows it.
    """
    store = open_store(Path(out))
    paths = [path for path in find_files(store, [RECORDS]) if path.stem.startswith(key.lower())]
    if not paths:
        raise CompatbenchError(
            f"{store.folder} holds no cell whose key begins with '{key}'; "
            "'compatbench store runs ls' lists them"
        )
    if len(paths) > 1:
        raise CompatbenchError(
            f"{len(paths)} cells have keys that begin with '{key}'; give more of it, such as "
            f"'{paths[0].stem[: len(key) + 8]}'"
        )
    try:
        return read_record(paths[0])
    except ValueError as error:
        raise CompatbenchError(f"{paths[0]} is damaged: {str(error).splitlines()[0]}") from None


def show_record(call: Call) -> None:
    """Shows what a cell's record says, and where its module is."""
    if call.prints_json(record := call()):
        return
    module = open_store(Path(call.arguments["out"])).module_path(record.key)
    facts = record.model_dump(exclude={"key", "schema_version", "records"}) | {
        "shots": show_shots(record.shots),
        "peak_memory": format_bytes(record.peak_memory) if record.peak_memory else None,
        "module_file": module if module.is_file() else None,
    }
    say(f"[bold]{record.key}[/] {record.state}")
    print_facts(facts)
    if record.records:
        rows = pd.DataFrame([each.model_dump(exclude={"data"}) for each in record.records])
        rows = rows.convert_dtypes().dropna(axis="columns", how="all").round(3)
        print_frame(rows.set_index("backbone").T.reset_index(names=""))


def verify_runs(out: str | Path = ".") -> int:
    """Compares every file with its checksum and its name; exits with 1 if one is not right.

    Nothing is moved. When a run needs such a file, it sets it aside and makes it again.
    """
    files = find_files(open_store(Path(out)))
    return _say_damaged(find_problems(files), len(files), "files")


def collect_garbage(
    delete: bool = False,
    days: float = 7,
    suite: list[str] | None = None,
    out: str | Path = ".",
) -> None:
    """Finds files that no plan needs any more: modules and predictions of cells that changed.

    A cell is obsolete if its method, images and weights are here and give another key now, with
    the training of every installed suite. Records stay: they are small, and are results. What was
    set aside as damaged, links and anything else in place of a file, and remains of killed
    processes go as well.

    Args:
        delete: Delete the files; without this, only list them.
        days: Keep files that are younger than this.
        suite: YAML file of a further suite; may be repeated.
    """
    suites = map(suite_cards.read, [*suite_cards.names(), *(suite or ())])
    waste = find_waste(open_store(Path(out)), suites, builtin_methods())
    kinds = {
        f"of {waste.cells} obsolete cells": waste.files,
        "damaged, or left by killed processes": waste.remains,
    }
    latest = time.time() - days * DAY
    for what, files in kinds.items():
        old = {path: stat.st_size for path, stat in files.items() if stat.st_mtime <= latest}
        if delete:
            delete_paths(old)
        young = f" ({len(files) - len(old)} younger ones stay)" if len(old) < len(files) else ""
        say(f"{len(old)} files {what}, {format_bytes(sum(old.values()))}{young}")
    say("deleted" if delete else "nothing was deleted; --delete does")


def list_cache() -> pd.DataFrame:
    """Lists what the cache holds, by backbone and task."""
    names = ["backbone", "task"]
    entries = [
        (*(str(entry.about.get(name, "?")) for name in names), entry.size)
        for entry in list_entries(default_cache_folder())
    ]
    sizes = pd.DataFrame(entries, columns=[*names, "size"])
    return sizes.groupby(names)["size"].agg(entries="size", size="sum").reset_index()


def show_cache(call: Call) -> None:
    """Shows the groups, and how much they take together."""
    if call.prints_json(groups := call()):
        return
    print_frame(groups.assign(size=groups["size"].map(format_bytes)), right=("size",))
    total = f"{groups['entries'].sum()} entries, {format_bytes(groups['size'].sum())}"
    say(escape(f"{total}, in {default_cache_folder()}"))


def verify_cache() -> int:
    """Compares every entry with its checksum; exits with 1 if one is damaged.

    Damaged entries are computed again when they are needed.
    """
    paths = [entry.path for entry in list_entries(default_cache_folder())]
    damaged = {path: "its checksum is another" for path in paths if read_entry(path) is None}
    return _say_damaged(damaged, len(paths), "entries")


def prune_cache(
    size: str | None = None,
    days: float | None = None,
    everything: bool = False,
) -> None:
    """Deletes entries, the oldest first. Nothing is lost: they are computed again when needed.

    Args:
        size: Keep at most this much, such as '10G'.
        days: Delete what is older than this.
        everything: Delete every entry.
    """
    if size is None and days is None and not everything:
        raise CompatbenchError(
            "store cache prune: say what to delete: --size 10G, --days 30, or --all"
        )
    most_bytes = 0 if everything else None if size is None else parse_bytes(size)
    seconds = None if days is None else days * DAY
    deleted = prune_entries(default_cache_folder(), most_bytes, seconds)
    say(f"deleted {len(deleted)} entries, {format_bytes(sum(entry.size for entry in deleted))}")


def _say_damaged(damaged: Mapping[Path, str], total: int, kind: str) -> int:
    """Names what is damaged; returns the exit code, 1 if anything is."""
    for path, why in damaged.items():
        say(f"[red]damaged[/] {escape(str(path))}: {escape(why)}")
    say(f"{total - len(damaged)} of {total} {kind} are intact")
    return int(bool(damaged))
