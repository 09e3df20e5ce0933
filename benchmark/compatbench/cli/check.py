"""``compatbench check``: the conformance kit as tables."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.cli.options import complete_methods

if TYPE_CHECKING:
    import pandas as pd

console = Console(highlight=False)
STYLES = {"pass": "green", "fail": "bold red", "skip": "yellow"}
WORDS = {"pass": "passed", "fail": "failed", "skip": "skipped"}


def check(
    methods: Annotated[
        str,
        typer.Argument(
            metavar="METHODS",
            help="What to check: a name, a glob, 'all', a comma list with exclusions, or the path "
            "of a method file ('./mine.py'), which is run as code.",
            autocompletion=complete_methods,
        ),
    ],
    only: Annotated[
        str, typer.Option("--only", help="Checks to try: names, globs, exclusions.")
    ] = "all",
) -> None:
    """Check that a method keeps the rules, on tiny synthetic models; exit with 1 if not.

    Fits are cut to a few steps, so that a method takes seconds on one core. One method gets a
    table of its checks; of several, each gets a line, and their failures are listed at the end.
    """
    from compatbench import api

    with console.status("") as status:
        found = api.check_methods(
            methods, only, progress=lambda one: status.update(f"{one.method}: {one.check}")
        )
    failed = found.query("status == 'fail'").to_dict("records")
    names = list(dict.fromkeys(found["method"]))
    if len(names) == 1:
        _show_one(names[0], found)
    else:
        width = max(map(len, names))
        wrong = {row["method"] for row in failed}
        for name in names:
            own = found.loc[found["method"] == name]
            mark = "[bold red]fail[/]" if name in wrong else "[green]pass[/]"
            line = f"{name.ljust(width)}  {_count(own)}  {sum(own['seconds']):.1f} s"
            console.print(f"{mark}  {escape(line)}", soft_wrap=True)
        if failed:
            table = _table("method", "failed check", "reason")
            for row in failed:
                table.add_row(row["method"], row["check"], escape(row["reason"]))
            console.print("", table)
        console.print(f"{len(names) - len(wrong)} of {len(names)} methods pass")
    if failed:
        raise typer.Exit(1)


def _show_one(name: str, found: pd.DataFrame) -> None:
    table = _table("check", "", "rule, or reason", "seconds")
    for row in found.to_dict("records"):
        text = row["reason"]
        if row["status"] == "pass":
            text = row["rule"] + (f" ({text})" if text else "")
        status = f"[{STYLES[row['status']]}]{row['status']}[/]"
        table.add_row(row["check"], status, escape(text), f"{row['seconds']:.1f}")
    console.print(table)
    console.print(f"{name}: {_count(found)}")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column == "seconds" else "left")
    return table


def _count(found: pd.DataFrame) -> str:
    """``21 passed, 1 failed, 1 skipped``; what there is none of is left out."""
    counts = Counter(found["status"])
    return ", ".join(f"{counts[name]} {word}" for name, word in WORDS.items() if name in counts)
