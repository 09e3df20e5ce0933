"""``compatbench runs ls | show | verify | gc``: what a folder's runs/ holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.cli.options import OutOption, complete_methods, complete_suites, complete_tasks
from compatbench.cli.tables import format_seconds
from compatbench.data.cards import suite_cards
from compatbench.data.shots import count_shots, show_shots
from compatbench.files.sizes import format_bytes

app = typer.Typer(no_args_is_help=True, help="Look at, verify and clean the store of a run.")
console = Console(highlight=False, soft_wrap=True)

DAY = 86400
MethodNames = Annotated[
    str, typer.Option("--methods", help="Names, globs, lists.", autocompletion=complete_methods)
]
TaskNames = Annotated[
    str, typer.Option("--tasks", help="Names, globs, lists.", autocompletion=complete_tasks)
]
StateNames = Annotated[
    str,
    typer.Option(
        "--state",
        help="Of ok, not transferable, error, oom, killed, timeout: names, globs, exclusions.",
    ),
]


@app.command("ls")
def list_(
    methods: MethodNames = "all",
    tasks: TaskNames = "all",
    state: StateNames = "all",
    out: OutOption = Path(),
) -> None:
    """List cells: how each ended, its size on disk and its age."""
    from compatbench.engine.store_check import list_cells, open_store

    store = open_store(out)
    cells = list_cells(store, methods, tasks, state)
    table = _table(*cells.columns)
    for cell in cells.to_dict("records"):
        shown = cell | {
            "key": cell["key"][:12],
            "shots": show_shots(cell["shots"]),
            "size": format_bytes(cell["size"]),
            "age": format_seconds(cell["age"]),
        }
        table.add_row(*(escape(str(value)) for value in shown.values()))
    # As wide as it is: a key is to be copied, and grep is to find a row whole.
    Console(file=console.file, width=max(console.width, 160)).print(table)
    console.print(f"{len(cells)} cells, {format_bytes(cells['size'].sum())}, in {store.folder}")


@app.command()
def show(
    key: Annotated[str, typer.Argument(help="The beginning of a cell's key, as 'ls' shows it.")],
    out: OutOption = Path(),
) -> None:
    """Show all that is stored of one cell."""
    from compatbench.engine.store_check import find_record, open_store

    store = open_store(out)
    record = find_record(store, key)
    module = store.module_path(record.key)
    fitted = f"{record.fit_seconds:g} s, {record.parameters:,} parameters"
    lines = {
        "key": record.key,
        "cell": f"{record.method} · {record.task} · {record.source} · "
        f"{count_shots(record.shots)} · seed {record.seed}",
        "state": f"{record.state}, attempt {record.attempt}",
        "error": record.error,
        "last frames": "\n".join(record.trace),
        "fit": fitted if record.status == "ok" else "",
        "peak memory": format_bytes(record.peak_memory) if record.peak_memory else "",
        "settings": ", ".join(f"{name}={value}" for name, value in record.config.items()),
        "made with": ", ".join(f"{name} {value}" for name, value in record.provenance.items()),
        "module": str(module) if module.is_file() else "",
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
            counts = [r.correct, r.zero_shot_correct]
            right, floor = ("" if n is None else f"{n} of {r.total}" for n in counts)
            row = (r.backbone, r.test_set, r.status, right, floor, f"{r.seconds:g}", r.reason)
            table.add_row(*map(escape, row))
        console.print(table)


@app.command()
def verify(out: OutOption = Path()) -> None:
    """Compare every file with its checksum and its name; exit with 1 if one is not right.

    Nothing is moved. A run sets such a file aside when it needs it, and makes it again.
    """
    from compatbench.engine.store_check import find_problems, list_files, open_store

    files = list_files(open_store(out))
    problems = find_problems(files)
    for path, why in problems.items():
        console.print(f"[red]damaged[/] {escape(str(path))}: {escape(why)}")
    console.print(f"{len(files) - len(problems)} of {len(files)} files are intact")
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
    and are results. Files set aside as damaged, and remains of killed processes, go as well.
    """
    from compatbench.data.draws import read_draws
    from compatbench.engine.store_check import delete_files, find_waste, open_store
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    for file in methods or ():
        registry.add_file(Path(file))
    suites = map(suite_cards.read, [*suite_cards.names(), *map(str, suite or ())])
    draws = read_draws(shots_file or ())
    waste = find_waste(open_store(out), suites, registry, draws, records=records)
    total = 0
    for what, found in (
        (f"of {waste.cells} unwanted cells", waste.files),
        ("damaged, or left by killed processes", waste.remains),
    ):
        old = [file for file in found if file.age >= days * DAY]
        if delete:
            delete_files(old)
        total += len(old)
        size = format_bytes(sum(file.size for file in old))
        young = f" ({len(found) - len(old)} younger ones stay)" if len(old) < len(found) else ""
        console.print(f"{len(old)} files {what}, {size}{young}")
    if delete:
        console.print(f"deleted {total} files")
    elif total:
        console.print("nothing was deleted; --delete does")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    left = ("key", "state", "method", "task", "source", "backbone", "test set", "status", "reason")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", overflow="fold")
    return table
