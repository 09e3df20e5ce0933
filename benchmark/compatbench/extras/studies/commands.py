"""Print what the commands of ``compatbench study`` find, and write their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.cli.command import Call
from compatbench.cli.output import console, show_table
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.tables.table import Table


def show_layers(call: Call) -> None:
    """Print the layers as a table, JSON or CSV, and write the figure."""
    figure = call.shell["figure"]
    if call.shell["as_json"] and call.shell["as_csv"]:
        raise CompatbenchError("--json and --csv: give one of the two")
    if figure is not None and figure.suffix != ".svg":
        raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")
    report = call()
    if not call.prints_json(report.data()):
        if call.shell["as_csv"]:
            print(report.rows.to_csv(index=False, lineterminator="\n"), end="")
        else:
            _print_tables(report.tables())
    if figure is not None:
        report.save_figure(figure)


def show_claims(call: Call) -> None:
    """Print each claim with its data, the effect, its interval and the verdict."""
    reports = call()
    if call.prints_json(reports):
        return
    if call.shell["markdown"]:
        print("\n\n".join(report.markdown() for report in reports))
    else:
        _print_tables([table for report in reports for table in report.tables()])


def _print_tables(tables: Sequence[Table]) -> None:
    for number, table in enumerate(tables):
        if number:
            console.print()
        show_table(table)
