"""``compatbench runs ls | show | verify | gc``: what a folder's runs/ holds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.cli.options import OutOption, complete_methods, complete_suites, complete_tasks
from compatbench.cli.progress import format_seconds
from compatbench.data.cards import select_names, suite_cards
from compatbench.data.shots import count_shots, show_shots
from compatbench.errors import CompatbenchError
from compatbench.files.sizes import format_bytes

if TYPE_CHECKING:
    from compatbench.engine.cell import CellRecord
    from compatbench.engine.inventory import StoredFile
    from compatbench.engine.store import RunStore

app = typer.Typer(no_args_is_help=True, help="Look at, verify and clean the store of a run.")
console = Console()

DAY = 86400
STATES = ("ok", "not transferable", "error", "oom", "killed", "timeout")


def _open(out: Path) -> RunStore:
    from compatbench.engine.store import RunStore

    folder = out / "runs"
    if not folder.is_dir():
        raise CompatbenchError(f"{folder} does not exist; 'compatbench run' makes it")
    return RunStore(folder)


def describe_state(record: CellRecord) -> str:
    """One word on a cell: ``ok``, or what keeps it from being so."""
    if record.failure is not None:
        return record.failure
    if record.status == "failed" or any(r.status == "failed" for r in record.records):
        return "error"
    refused = any(r.status == "not transferable" for r in record.records)
    return "not transferable" if refused else "ok"


@app.command("ls")
def list_(
    methods: Annotated[
        str,
        typer.Option("--methods", help="Names, globs, lists.", autocompletion=complete_methods),
    ] = "all",
    tasks: Annotated[
        str, typer.Option("--tasks", help="Names, globs, lists.", autocompletion=complete_tasks)
    ] = "all",
    state: Annotated[
        str, typer.Option("--state", help=f"Of {', '.join(STATES)}: names, globs, exclusions.")
    ] = "all",
    out: OutOption = Path(),
) -> None:
    """List cells: how each ended, its size on disk and its age."""
    from compatbench.engine.inventory import list_files, read_records

    store = _open(out)
    files = list_files(store)
    records = read_records(files)
    sizes: dict[str, int] = {}
    ages: dict[str, float] = {}
    for file in files:
        sizes[file.key] = sizes.get(file.key, 0) + file.size
        if file.kind == "record":
            ages[file.key] = file.age
    if not records:
        console.print(f"{store.folder} holds no cells", highlight=False, soft_wrap=True)
        return
    chosen = {
        "method": select_names(methods, sorted({r.method for r in records.values()}), "method"),
        "task": select_names(tasks, sorted({r.task for r in records.values()}), "task"),
    }
    states = select_names(state, STATES, "state")
    shown = [
        record
        for record in records.values()
        if record.method in chosen["method"]
        and record.task in chosen["task"]
        and describe_state(record) in states
    ]
    table = _table("key", "state", "method", "task", "source", "shots", "seed", "records")
    for column in ("size", "age"):
        table.add_column(column, justify="right")
    for record in sorted(shown, key=lambda r: (r.method, r.task, r.source, r.shots, r.seed)):
        cells = [record.key[:12], describe_state(record), record.method, record.task]
        cells += [record.source, show_shots(record.shots), record.seed, len(record.records)]
        cells += [format_bytes(sizes[record.key]), format_seconds(ages[record.key])]
        table.add_row(*(escape(str(cell)) for cell in cells))
    # As wide as it is: a key is to be copied, and grep is to find a row whole.
    Console(file=console.file, width=max(console.width, 160)).print(table)
    size = format_bytes(sum(sizes[record.key] for record in shown))
    console.print(
        f"{len(shown)} of {len(records)} cells, {size}, in {store.folder}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="The beginning of a cell's key, as 'ls' shows it.")],
    out: OutOption = Path(),
) -> None:
    """Show all that is kept of one cell."""
    from compatbench.engine.inventory import find_key, list_files, read_records

    store = _open(out)
    found = find_key(store, key)
    record = read_records(list_files(store)).get(found)
    if record is None:
        raise CompatbenchError(f"the record of {found} is damaged; see 'compatbench runs verify'")
    lines = {
        "key": record.key,
        "cell": f"{record.method} · {record.task} · {record.source} · "
        f"{count_shots(record.shots)} · seed {record.seed}",
        "state": f"{describe_state(record)}, attempt {record.attempt}",
        "error": record.error,
        "last frames": "\n".join(record.trace),
        "fit": f"{record.fit_seconds:g} s, {record.parameters:,} parameters"
        if record.status == "ok"
        else "",
        "peak memory": format_bytes(record.peak_memory) if record.peak_memory else "",
        "settings": ", ".join(f"{name}={value}" for name, value in record.config.items()),
        "made with": ", ".join(f"{name} {value}" for name, value in record.provenance.items()),
        "module": str(store.module_path(found)) if store.module_path(found).is_file() else "",
    }
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in lines.items():
        if text:
            table.add_row(name, escape(text))
    console.print(table)
    if record.records:
        table = _table("backbone", "test set", "status", "right", "zero-shot", "seconds", "reason")
        for r in record.records:
            right, floor = (
                "" if n is None else f"{n} of {r.total}" for n in (r.correct, r.zero_shot_correct)
            )
            row = (r.backbone, r.test_set, r.status, right, floor, f"{r.seconds:g}", r.reason)
            table.add_row(*map(escape, row))
        console.print(table)


@app.command()
def verify(out: OutOption = Path()) -> None:
    """Hold every file against its checksum and its name; exit with 1 if one is not right.

    Nothing is moved. A run sets such a file aside when it needs it, and makes it again.
    """
    from compatbench.engine.inventory import find_problems, list_files

    store = _open(out)
    files = list_files(store)
    problems = find_problems(store, files)
    for problem in problems:
        console.print(
            f"[red]damaged[/] {escape(str(problem.path))}: {escape(problem.why)}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"{len(files) - len(problems)} of {len(files)} files are intact", highlight=False)
    if problems:
        raise typer.Exit(1)


@app.command()
def gc(
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete; without, only say what would go.")
    ] = False,
    days: Annotated[float, typer.Option("--days", min=0, help="Leave what is younger.")] = 7,
    records: Annotated[
        bool, typer.Option("--records", help="Delete the records of unwanted cells, too.")
    ] = False,
    suite: Annotated[
        list[Path] | None,
        typer.Option(
            "--suite",
            help="YAML file of a further suite whose cells are wanted; may be repeated.",
            autocompletion=complete_suites,
        ),
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--methods", help="File of a further method; may be repeated."),
    ] = None,
    shots_file: Annotated[
        list[Path] | None,
        typer.Option("--shots-file", help="File with a draw that is wanted; may be repeated."),
    ] = None,
    out: OutOption = Path(),
) -> None:
    """Find files that serve no plan any more: modules and predictions of cells that changed.

    A cell is unwanted if its method, settings, images or weights are here and give another key
    now, in every installed suite. Records stay, unless --records says otherwise: they are small,
    and are results. What was set aside as damaged, and remains of killed writers, go as well.
    """
    from compatbench.data.draws import read_draws
    from compatbench.engine.inventory import find_remains, list_files, read_records
    from compatbench.engine.obsolete import find_unwanted
    from compatbench.method.registry import builtin_methods

    store = _open(out)
    registry = builtin_methods()
    for file in methods or ():
        registry.add_file(Path(file))
    suites = [
        *map(suite_cards.read, suite_cards.names()),
        *map(suite_cards.read, map(str, suite or ())),
    ]
    files = list_files(store)
    unwanted = find_unwanted(read_records(files), suites, registry, read_draws(shots_file or ()))
    kinds = ("module", "predictions", *(["record"] if records else []))
    stale = [file for file in files if file.key in unwanted and file.kind in kinds]
    doomed = {
        f"of {len(unwanted)} unwanted cells": stale,
        "damaged, or left by killed writers": find_remains(store),
    }
    total = 0
    for what, found in doomed.items():
        old = [file for file in found if file.age >= days * DAY]
        total += _delete(old) if delete else len(old)
        size = format_bytes(sum(file.size for file in old))
        young = f" ({len(found) - len(old)} younger ones stay)" if len(old) < len(found) else ""
        console.print(f"{len(old)} files {what}, {size}{young}", highlight=False, soft_wrap=True)
    if delete:
        console.print(f"deleted {total} files", highlight=False)
    elif total:
        console.print("nothing was deleted; --delete does", highlight=False)


def _delete(files: Iterable[StoredFile]) -> int:
    count = 0
    for file in files:
        try:
            file.path.unlink(missing_ok=True)
        except OSError as error:
            raise CompatbenchError(f"cannot delete {file.path}: {error.strerror}") from None
        count += 1
    return count


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        numeric = column in ("shots", "seed", "records", "right", "zero-shot", "seconds")
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    return table
