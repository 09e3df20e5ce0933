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
    "measure": "For readers: choose a method",
    "upgrade": "For owners: bring a module to a new model",
    "add": "For owners and authors: add images or a method",
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
    helps = GROUPS | offered("GROUPS")
    order = [*PANELS, *helps]
    apps = {"": app}

    def group_of(words: str) -> tuple[typer.Typer, str]:
        """The group of a command, which is made for its first, and the command's name there."""
        group, _, name = words.rpartition(" ")
        if group not in apps:
            above, word = group_of(group)
            apps[group] = typer.Typer(no_args_is_help=True, help=helps[word])
            panel = "More" if above is app else None
            above.add_typer(apps[group], name=word, rich_help_panel=panel)
        return apps[group], name

    def place(words: str) -> int:
        return order.index(commands[words].panel or words.split()[0])

    for words in sorted(commands, key=place):
        command = commands[words]
        add_command(*group_of(words), command, PANELS.get(command.panel))


_add_commands()
