"""All commands: the core's, and those of the extras."""

from __future__ import annotations

from typing import Annotated

import typer

import compatbench
from compatbench.cli.command import add_command
from compatbench.cli.commands import COMMANDS, GROUPS
from compatbench.cli.output import say
from compatbench.plugins import offered

PANELS = {
    "run": "Run the benchmark",
    "readers": "For readers: choose a method",
    "authors": "For authors: add a method",
    "owners": "For owners: upgrade your model",
}
# What 'compatbench' alone prints: what each kind of user may want.
START = """\
Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

  compatbench run --methods all     choose a method: measure and rank them all
  compatbench new-method mine       add a method: a working file to start from
  compatbench new-task photos       upgrade your model, on your own images

All commands: compatbench --help"""
ABOUT = """\
Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

A module is trained once on a source backbone, attached untouched to the upgraded \
one, and ranked by the harmonic mean of both accuracies.

Start with: compatbench run --methods all"""

app = typer.Typer(
    name="compatbench",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=ABOUT,
)


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


def _add_commands() -> None:
    commands = COMMANDS | offered("COMMANDS")
    groups: dict[str, typer.Typer] = {}
    helps = GROUPS | offered("GROUPS")
    for panel, title in PANELS.items():
        for words, command in commands.items():
            if command.panel != panel:
                continue
            group, _, name = words.rpartition(" ")
            if group and group not in groups:
                groups[group] = typer.Typer(no_args_is_help=True, help=helps[group])
                app.add_typer(groups[group], name=group, rich_help_panel=title)
            add_command(groups.get(group, app), name, command, title)


_add_commands()
