"""``compatbench data fetch`` and ``data weights``: what a suite needs, onto this machine."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from compatbench.cli import options
from compatbench.cli.inventory import MARKS, data_app
from compatbench.cli.output import console, print_facts, say

Tasks = Annotated[list[str] | None, typer.Argument(autocompletion=options.complete_tasks)]
Backbones = Annotated[list[str] | None, typer.Argument(autocompletion=options.complete_backbones)]


@options.command(data_app, "fetch")
def fetch_data(
    task: Tasks = None,
    suite: str | None = None,
    agree: bool = False,
    keep: bool = False,
    data_root: list[str] | None = None,
) -> None:
    """Download datasets into the folders in which their cards look for them.

    Complete files are kept, and interrupted downloads are continued. Files are checked against
    published hashes; where there is none, the first download writes its own to downloads.json in
    the dataset's folder, and later ones are checked against that. Exits with 1 if something is
    still missing, and says for each file what to do.

    Args:
        task: Tasks: names, globs, or the path of a card.
        suite: Fetch all that a suite needs: its name or a YAML file.
        agree: Agree to the licences that ask for it.
        keep: Keep archives that were unpacked.
    """
    from compatbench import api

    with console.status("") as status:
        found = api.fetch_data(
            task or (),
            suite,
            agree=agree,
            keep=keep,
            tell=lambda line: say(escape(line)),
            progress=lambda line: status.update(escape(line)),
        )
    for one in found:
        say(f"{MARKS[one.report.state]} [bold]{escape(one.task)}[/] ")
        facts = {"fetched": ", ".join(one.files), "folder": one.report.folder}
        facts |= {"images": one.report.found, "message": one.report.message}
        facts |= {} if one.ready or one.problems else {"fix": one.report.fix}
        print_facts(facts)
        for problem in () if one.ready else one.problems:
            say(f"  [red]problem[/]: {escape(problem)}")
    if not all(one.ready for one in found):
        raise typer.Exit(1)


@options.command(data_app, "weights")
def fetch_backbones(backbone: Backbones = None, suite: str | None = None) -> None:
    """Download the weights of backbones into the hub's cache, and check them.

    Weights that are on this machine are not fetched again (see docs/backbones.md for the places).
    Exits with 1 if something could not be fetched, and says what to do.

    Args:
        backbone: Backbones: names of cards, or MODEL/TAG.
        suite: Fetch those of all upgrades of a suite: its name or a YAML file.
    """
    from compatbench import api

    with console.status("") as status:
        found = api.fetch_backbones(
            backbone or (), suite, progress=lambda line: status.update(escape(line))
        )
    for one in found:
        mark = MARKS["found" if one.file else "missing"]
        say(f"{mark} [bold]{escape(one.name)}[/] ")
        print_facts({"file": one.file, "licence": one.licence, "problem": one.problem})
    if not all(one.file for one in found):
        raise typer.Exit(1)
