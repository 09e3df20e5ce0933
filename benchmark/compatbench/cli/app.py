"""The commands and their options. Heavy imports wait until a command needs them."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import compatbench
from compatbench.cli.analyze import app as analyze_app
from compatbench.cli.analyze import claims
from compatbench.cli.audit import audit
from compatbench.cli.cache import app as cache_app
from compatbench.cli.ci import ci
from compatbench.cli.data import app as data_app
from compatbench.cli.evaluate import evaluate
from compatbench.cli.gauge import gauge
from compatbench.cli.list import list_
from compatbench.cli.options import (
    DataRootOption,
    DeviceOption,
    OfflineOption,
    OutOption,
    TrustPickleOption,
    complete_backbones,
    complete_methods,
    complete_tasks,
)
from compatbench.cli.report import leaderboard, report
from compatbench.cli.runs import app as runs_app
from compatbench.cli.run import plan, run
from compatbench.data.cards import backbone_cards, suite_cards, task_cards

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
analyze_app.command("gauge")(gauge)
app.add_typer(analyze_app, name="analyze")
app.command("claims")(claims)
app.command("leaderboard")(leaderboard)
app.command("report")(report)
app.add_typer(cache_app, name="cache")
app.add_typer(data_app, name="data")
app.add_typer(runs_app, name="runs")
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
app.command()(doctor)
app.command()(audit)
app.command()(ci)


@app.command()
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

    Fits are cut to a few steps, so that a method takes seconds on one core.
    """
    from compatbench.cli.check import check_command

    check_command(console, methods=methods, only=only)


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Such as 'my_method'.", show_default=False)],
) -> None:
    """Write a commented method file that works as it is, to be made into yours."""
    from compatbench.cli.new_method import new_method_command

    new_method_command(console, name=name)


app.command()(evaluate)
app.command("list")(list_)
app.command()(leaderboard)
