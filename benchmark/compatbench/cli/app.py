"""The commands. Heavy imports wait until a command needs them."""

from __future__ import annotations

from typing import Annotated

import typer

import compatbench
from compatbench.cli import (
    analyze,
    authoring,
    indexes,
    inventory,
    modules,
    options,
    own_data,
    results,
    run,
    sharing,
    stores,
)
from compatbench.cli.output import say

app = typer.Typer(
    name="compatbench",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?\n\n"
        "A module is trained once on a source backbone, attached untouched to the upgraded "
        "one, and ranked by the harmonic mean of both accuracies.\n\n"
        "Start with: compatbench run --methods all"
    ),
)
# What 'compatbench' alone prints: what each kind of user may want.
START = """\
Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

  compatbench run --methods all     choose a method: measure and rank them all
  compatbench new-method mine       add a method: a working file to start from
  compatbench new-task photos       upgrade your model, on your own images

All commands: compatbench --help"""


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"compatbench {compatbench.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        say(START)


# The commands for each kind of user; those for all come first.
PANELS = {
    "Run the benchmark": (run.run, run.plan, inventory.list_),
    "For readers: choose a method": (
        results.leaderboard,
        results.report,
        analyze.claims,
        analyze.app,
    ),
    "For authors: add a method": (
        authoring.new_method,
        authoring.check,
        authoring.tune,
        results.audit,
        results.ci,
    ),
    "For owners: upgrade your model": (
        modules.evaluate,
        modules.port,
        indexes.retrieve,
        own_data.new_task,
        own_data.advise,
        own_data.predict,
        modules.import_,
        modules.export,
        sharing.push,
        sharing.pull,
        inventory.doctor,
        inventory.data_app,
        stores.runs_app,
        stores.cache_app,
    ),
}
for panel, commands in PANELS.items():
    for one in commands:
        if isinstance(one, typer.Typer):
            app.add_typer(one, rich_help_panel=panel)
        else:
            options.command(app, panel=panel)(one)
