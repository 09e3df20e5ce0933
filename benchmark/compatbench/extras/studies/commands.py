"""What commands of ``compatbench study`` print, and the files that they write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import console, error_console, print_json, say, show_table
from compatbench.errors import CompatbenchError

if TYPE_CHECKING:
    from compatbench.extras.studies.frames import StudyReport
    from compatbench.tables.table import Table


def one_rate(rate: float) -> tuple[float]:
    """The rates of which a fit chooses, if there is one alone."""
    return (rate,)


def show_study(call: Call) -> None:
    """Shows a report's tables, its rows as JSON or CSV, and writes its figure."""
    report = _make_report(call)
    _show(call, report, report.rows)


def show_embeddings(call: Call) -> None:
    """Shows all frames as JSON; says so where losses are not known."""
    report = _make_report(call)
    note = ""
    if report.predictions.empty:
        options = call.shell["options"]
        folder = options["out"] / "results" / options["suite"]
        note = f"{folder} holds no complete method for this upgrade, so losses are left out"
    _show(call, report, report, note)


def claims(call: Call) -> None:
    """Shows each claim with its data, the effect, its interval and the verdict."""
    reports = call()
    if call.prints_json(reports):
        return
    if call.shell["markdown"]:
        print("\n\n".join(report.markdown() for report in reports))
    else:
        _print_tables([table for report in reports for table in report.tables()])


def _make_report(call: Call) -> Any:
    from compatbench.runs.progress import RunProgress

    figure = call.shell["figure"]
    if call.shell["as_json"] and call.shell["as_csv"]:
        raise CompatbenchError("--json and --csv: give one of the two")
    if figure is not None and figure.suffix != ".svg":
        raise CompatbenchError(f"--figure '{figure}': figures are SVG; end the name in .svg")
    with RunProgress(error_console) as progress:
        follow = {"on_start": progress.start_plan, "on_event": progress.on_event}
        return call(**call.shell["options"], **follow)


def _show(call: Call, report: StudyReport, as_json: Any, note: str = "") -> None:
    if call.shell["as_json"]:
        print_json(as_json)
    elif call.shell["as_csv"]:
        joined = report.rows.map(lambda x: " ".join(map(str, x)) if type(x) is tuple else x)
        print(joined.to_csv(index=False, lineterminator="\n"), end="")
    else:
        _print_tables(report.tables())
        if note:
            say(escape(note))
    figure = call.shell["figure"]
    if figure is not None and not report.save_figure(figure):
        raise CompatbenchError(f"--figure '{figure}': there is nothing to draw")


def _print_tables(tables: Sequence[Table]) -> None:
    for number, table in enumerate(tables):
        if number:
            console.print()
        show_table(table)
