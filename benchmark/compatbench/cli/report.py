"""``compatbench report`` and ``compatbench leaderboard``: the pages of a folder of results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.cli.options import OutOption

CheckOption = Annotated[
    bool, typer.Option("--check", help="Write nothing; fail if a page or figure is not up to date.")
]


def report(out: OutOption = Path(), check: CheckOption = False) -> None:
    """Make results/report.html and results/figures/ from results/, byte for byte.

    The page needs no other file: open it in a browser, mail it, put it on any server. It has a
    leaderboard to sort and filter, the upgrade matrix, source against target accuracy, average
    ranks with critical differences, what a good H costs, and, where a suite measures them,
    curves over shots and along paths of upgrades.

    Nothing is trained and no weights are needed. A figure for which there are no results is left
    out, and the page says what would make it. The suites 'mini', 'mini-shots' and 'mini-paths'
    together give every figure.
    """
    from compatbench import api

    console = Console(soft_wrap=True)
    made = api.report(out, check)
    for line in made.left_out:
        console.print(line, highlight=False, markup=False)
    verb, page = "is up to date" if check else "written", list(made.files)[-1]
    text = f"{page} {verb}, {len(made.files) - 1} figures beside it"
    console.print(text, highlight=False, markup=False)


def leaderboard(out: OutOption = Path(), check: CheckOption = False) -> None:
    """Make leaderboard.md and its figures again from results/, byte for byte.

    The figures and the page of all results are those of 'compatbench report'.
    """
    from compatbench import api

    for path in api.leaderboard(out, check):
        Console(soft_wrap=True).print(f"{path} is up to date", highlight=False)
