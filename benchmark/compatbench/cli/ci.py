"""``compatbench ci``: all that is asked of a pull request, here or in a workflow."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from compatbench.cli.audit import SampleSeedOption
from compatbench.cli.options import DeviceOption, OutOption
from compatbench.errors import CompatbenchError

console = Console(stderr=True, soft_wrap=True, highlight=False)


def ci(
    out: OutOption = Path(),
    base: Annotated[
        str | None,
        typer.Option(
            "--base",
            metavar="REF",
            help="Branch, tag or commit to compare with.",
            show_default="origin/$GITHUB_BASE_REF, then origin/main, then main",
        ),
    ] = None,
    cells: Annotated[
        int, typer.Option("--cells", min=0, help="Cells of the changed methods to run again.")
    ] = 3,
    seed: SampleSeedOption = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            "--summary",
            help="File that the Markdown summary is added to.",
            show_default="$GITHUB_STEP_SUMMARY, or the terminal",
            dir_okay=False,
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Do what is asked of a pull request; exit with 1 if something keeps it from being merged.

    Finds what changed against the base; checks the changed methods; audits all results, and runs
    some cells of the changed methods again; lists how figures moved against the base, of which
    no row may be missing; compares the changed methods with zero-shot, KgCoOp, ContCoOp and their
    own figures at the base; and tells whether leaderboard.md is up to date. Runs the code of the
    methods in this clone, and needs neither a network nor any token.
    """
    from compatbench import api

    found = api.check_pull_request(
        out,
        base,
        cells=cells,
        seed=seed,
        device=device,
        progress=lambda line: console.print(line, style="dim", markup=False),
    )
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    path = summary or (Path(step_summary) if step_summary else None)
    if path is None:
        print(found.summary, end="")
    else:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(found.summary)
        except OSError as error:
            raise CompatbenchError(f"cannot write {path}: {error.strerror}") from None
    for problem in found.problems:
        console.print(f"[bold red]wrong[/] {escape(problem)}")
    console.print(f"problems: {len(found.problems)}")
    if found.problems:
        raise typer.Exit(1)
