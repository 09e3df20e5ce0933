"""The commands. Heavy imports wait until a command needs them."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

import compatbench
from compatbench.cli.analyze import app as analyze_app
from compatbench.cli.analyze import claims
from compatbench.cli.audit import audit
from compatbench.cli.cache import app as cache_app
from compatbench.cli.check import check
from compatbench.cli.ci import ci
from compatbench.cli.data import app as data_app
from compatbench.cli.doctor import doctor
from compatbench.cli.evaluate import evaluate
from compatbench.cli.list import list_
from compatbench.cli.new_method import new_method
from compatbench.cli.report import leaderboard, report
from compatbench.cli.run import plan, run
from compatbench.cli.runs import app as runs_app

app = typer.Typer(
    name="compatbench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?\n\n"
        "A module is trained once on a source backbone, attached untouched to the upgraded "
        "one, and ranked by the harmonic mean of both accuracies.\n\n"
        "Start with: compatbench run --methods all"
    ),
)
console = Console()


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(f"compatbench {compatbench.__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


app.command()(run)
app.command()(plan)
app.command()(evaluate)
app.command()(leaderboard)
app.command()(report)
app.command("list")(list_)
app.command()(doctor)
app.command()(check)
app.command("new-method")(new_method)
app.command()(audit)
app.command()(ci)
app.command()(claims)
app.add_typer(analyze_app, name="analyze")
app.add_typer(cache_app, name="cache")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")
