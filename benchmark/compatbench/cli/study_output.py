"""How ``compatbench analyze`` and ``claims`` print what a study gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.studies.study_report import StudyReport, TextTable

console = Console()


def check_output(as_json: bool, as_csv: bool, figure: Path | None) -> None:
    """Checks the options of the output before anything is computed."""
    if as_json and as_csv:
        raise CompatbenchError("--json and --csv: give one of the two")
    if figure is not None and figure.suffix != ".svg":
        raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")


def show_report(
    report: StudyReport, as_json: bool, as_csv: bool, figure: Path | None, whole: Any = None
) -> None:
    """Prints a report, and draws its figure if one is wanted.

    Args:
        whole: what JSON holds, in place of the report's rows.
    """
    from compatbench.pages.figures.svg import save_svg, svg_style

    if as_json:
        print_json(report.rows if whole is None else whole)
    elif as_csv:
        joined = report.rows.map(lambda x: " ".join(map(str, x)) if type(x) is tuple else x)
        print(joined.to_csv(index=False, lineterminator="\n"), end="")
    else:
        print_tables(report.tables())
    if figure is not None:
        with svg_style():
            if drawn := report.draw():
                save_svg(drawn, figure)


def print_json(data: Any) -> None:
    """Prints frames, records and what they hold; the console would wrap it."""
    from compatbench.studies.study_report import as_plain

    print(json.dumps(as_plain(data), indent=1, ensure_ascii=False))


def print_tables(tables: Sequence[TextTable]) -> None:
    """Prints tables, each with the line above it and its notes."""
    for i, table in enumerate(tables):
        if i:
            console.print()
        if table.head:
            say(table.head.replace("`", ""))
        shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column, title in enumerate(table.header):
            side = "left" if column in table.left else "right"
            shown.add_column(title, justify=side, overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown, highlight=False, markup=False)
        for note in table.notes:
            say(note)


def say(text: str) -> None:
    """Prints a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)
