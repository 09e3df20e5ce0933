"""The commands. Heavy imports wait until a command needs them."""

from __future__ import annotations

from typing import Annotated

import typer

import compatbench
from compatbench.cli import (
    analyze,
    authoring,
    fetch,
    inventory,
    modules,
    options,
    own_data,
    results,
    run,
    stores,
)
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


# The commands for each kind of user; those for all come first.
PANELS = {
    "Run the benchmark": (run.run, run.plan, inventory.list_),
    "Choose a method": (results.leaderboard, results.report, analyze.claims, analyze.app),
    "Try your own module, data or upgrade": (
        modules.evaluate,
        modules.port,
        own_data.new_task,
        own_data.advise,
        modules.import_,
        modules.export,
        inventory.doctor,
        fetch.data_app,
        stores.runs_app,
        stores.cache_app,
    ),
    "Add a method": (
        authoring.new_method,
        authoring.check,
        authoring.tune,
        results.audit,
        results.ci,
    ),
}
for panel, commands in PANELS.items():
    for one in commands:
        if isinstance(one, typer.Typer):
            app.add_typer(one, rich_help_panel=panel)
        else:
            options.command(app, panel=panel)(one)
