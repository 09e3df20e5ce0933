"""The commands. Heavy imports wait until a command needs them."""

from __future__ import annotations

from typing import Annotated

import typer

import compatbench
from compatbench.cli import analyze, authoring, inventory, options, results, run, stores
from compatbench.cli.output import say

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


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"compatbench {compatbench.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for function in (
    run.run,
    run.plan,
    run.evaluate,
    results.leaderboard,
    results.report,
    inventory.list_,
    inventory.doctor,
    authoring.check,
    authoring.new_method,
    results.audit,
    results.ci,
    analyze.claims,
):
    options.command(app)(function)
app.add_typer(analyze.app, name="analyze")
app.add_typer(stores.cache_app, name="cache")
app.add_typer(inventory.data_app, name="data")
app.add_typer(stores.runs_app, name="runs")
