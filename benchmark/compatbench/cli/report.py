"""``compatbench report``: the results as figures and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.cli.options import OutOption


def report(
    out: OutOption = Path(),
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing; fail if the page or a figure is not up to date."
        ),
    ] = False,
) -> None:
    """Make results/report.html and results/figures/ from results/, byte for byte.

    The page needs nothing beside itself: open it in a browser, mail it, put it on any server. It
    has a leaderboard to sort and filter, the upgrade matrix, source against target accuracy,
    average ranks with critical differences, what a good H costs, and, where a suite measures
    them, curves over shots and along paths of upgrades.

    Nothing is trained and no weights are needed. A figure for which there are no results is left
    out, and the page says what would make it. The suites 'mini', 'mini-shots' and 'mini-paths'
    together give every figure.
    """
    from compatbench.pages.report.publish import check_report, write_report

    console = Console(soft_wrap=True)
    made = check_report(out) if check else write_report(out)
    for line in made.left_out:
        console.print(line, highlight=False, markup=False)
    verb = "is up to date" if check else "written"
    figures = f"{len(made.figures)} figures beside it"
    console.print(f"{made.page[0]} {verb}, {figures}", highlight=False, markup=False)
