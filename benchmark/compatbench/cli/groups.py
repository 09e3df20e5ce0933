"""The program and its groups of commands, which the files of commands add theirs to."""

from typing import Annotated, Any

import typer

import compatbench
from compatbench.cli.completion import HintingCommand
from compatbench.cli.output import say

# Headings of ``--help``.
READERS = "For readers: choose a method"
OWNERS = "For owners: bring a module to a new model"
AUTHORS = "For owners and authors: add images or a method"
MORE = "More"
# The text of 'compatbench' without a command: a first step for each kind of user.
START = """\
Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

  compatbench run --methods all     choose a method: measure and rank them all
  compatbench new-method mine       add a method: a working file to start from
  compatbench new-task photos       upgrade your model, on your own images

All commands: compatbench --help"""
ABOUT = """\
Do modules fine-tuned on CLIP survive its upgrade to EVA-CLIP?

This benchmark trains a small module once on the old model, copies it unchanged to the \
new one, and compares it there with the new model's own zero-shot classifier. Methods \
are ranked by the harmonic mean of their accuracies on both models.

Start with: compatbench run --methods all"""


class Commands(typer.Typer):
    """Commands that name the missing option before a word."""

    def command(self, *args: Any, **settings: Any) -> Any:
        """Register a function as a command, as typer does."""
        settings.setdefault("cls", HintingCommand)
        return super().command(*args, **settings)

    def add_group(self, name: str, text: str, panel: str | None = None) -> "Commands":
        """Add a group of commands, and return it."""
        group = Commands(no_args_is_help=True, help=text)
        self.add_typer(group, name=name, rich_help_panel=panel)
        return group


app = Commands(
    name="compatbench",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=ABOUT,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        say(f"compatbench {compatbench.__version__}")
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Show where to start, if no command is given."""
    if context.invoked_subcommand is None:
        say(START)


module = app.add_group(
    "module", "Convert modules from and to other code, and port them to a new model.", MORE
)
store = app.add_group(
    "store", "Show what is on this machine and what is missing, and fetch or delete it.", MORE
)
data = store.add_group("data", "Download datasets and weights.")
maintain = app.add_group(
    "maintain", "Keep the project's results true: tuning, audits, and rows of real models.", MORE
)
