"""``compatbench cache ls | verify | prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from compatbench.data.cache_files import (
    Entry,
    default_cache_folder,
    list_entries,
    prune_entries,
    read_entry,
)
from compatbench.errors import CompatbenchError
from compatbench.files.sizes import format_bytes, parse_bytes

app = typer.Typer(no_args_is_help=True, help="Look at and clean the cache of image features.")
console = Console()


@app.command("ls")
def list_() -> None:
    """List what the cache holds, by backbone and task."""
    folder = default_cache_folder()
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in list_entries(folder):
        names = (str(entry.about.get("backbone", "?")), str(entry.about.get("task", "?")))
        groups.setdefault(names, []).append(entry)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in ("backbone", "task", "entries", "size"):
        table.add_column(column, justify="right" if column in ("entries", "size") else "left")
    for names, entries in sorted(groups.items()):
        table.add_row(*names, str(len(entries)), format_bytes(sum(e.size for e in entries)))
    if groups:
        console.print(table)
    _print_total([entry for group in groups.values() for entry in group], folder)


@app.command()
def verify() -> None:
    """Read every entry and hold it against its checksum; exit with 1 if one is damaged."""
    folder = default_cache_folder()
    entries = list_entries(folder)
    damaged = [entry for entry in entries if read_entry(entry.path) is None]
    for entry in damaged:
        console.print(f"[red]damaged[/] {entry.path}", highlight=False, soft_wrap=True)
    console.print(f"{len(entries) - len(damaged)} of {len(entries)} entries are intact")
    if damaged:
        console.print("Damaged entries are computed again when they are needed.")
        raise typer.Exit(1)


@app.command()
def prune(
    size: Annotated[
        str | None, typer.Option("--size", help="Keep at most this much, such as '10G'.")
    ] = None,
    days: Annotated[
        float | None, typer.Option("--days", min=0, help="Delete what is older than this.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Delete every entry.")] = False,
) -> None:
    """Delete entries, the oldest first. Nothing is lost: they are computed again when needed."""
    if size is None and days is None and not everything:
        raise CompatbenchError("cache prune: say what to delete: --size 10G, --days 30, or --all")
    most_bytes = 0 if everything else None if size is None else parse_bytes(size)
    seconds = None if days is None else days * 86400
    deleted = prune_entries(default_cache_folder(), most_bytes, seconds)
    freed = format_bytes(sum(entry.size for entry in deleted))
    console.print(f"deleted {len(deleted)} entries, {freed}")


def _print_total(entries: list[Entry], folder: Path) -> None:
    size = format_bytes(sum(entry.size for entry in entries))
    console.print(f"{len(entries)} entries, {size}, in {folder}", highlight=False, soft_wrap=True)
