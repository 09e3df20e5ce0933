"""What commands of ``compatbench study`` print, and the files that they write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from compatbench.cli.command import Call
from compatbench.cli.output import console, error_console, show_table
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.tables.table import Table


def one_rate(rate: float) -> tuple[float]:
    """The rates of which a fit chooses, if there is one alone."""
    return (rate,)


def show_study(call: Call) -> None:
    """Shows a report's tables, its figures as JSON or CSV, and writes its picture."""
    from compatbench.runs.progress import RunProgress

    figure = call.shell["figure"]
    if call.shell["as_json"] and call.shell["as_csv"]:
        raise CompatbenchError("--json and --csv: give one of the two")
    if figure is not None and figure.suffix != ".svg":
        raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")
    with RunProgress(error_console) as progress:
        follow = {"on_start": progress.start_plan, "on_event": progress.on_event}
        report = call(**call.shell["options"], **follow)
    if not call.prints_json(report.data()):
        if call.shell["as_csv"]:
            joined = report.rows.map(lambda x: " ".join(map(str, x)) if type(x) is tuple else x)
            print(joined.to_csv(index=False, lineterminator="\n"), end="")
        else:
            _print_tables(report.tables())
    if figure is not None and not report.save_figure(figure):
        raise CompatbenchError(f"--figure '{figure}': there is nothing to draw")


def claims(call: Call) -> None:
    """Shows each claim with its data, the effect, its interval and the verdict."""
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
