"""``compatbench ci``: all that is asked of a pull request, here or in a workflow."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from compatbench.cli.options import DeviceOption
from compatbench.errors import CompatbenchError

console = Console(stderr=True)


def ci(
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
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, help="Seed of the draw.", show_default="a new one, which is printed"
        ),
    ] = None,
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
    from compatbench.audit import Options
    from compatbench.audit.pull_request import check_change
    from compatbench.audit.pull_request.git import find_change
    from compatbench.data.cache_files import default_cache_folder
    from compatbench.engine.execute.device import resolve_device
    from compatbench.method.registry import builtin_methods

    change = find_change(Path(), base)
    options = Options(
        cells=cells,
        seed=secrets.randbelow(1_000_000) if seed is None else seed,
        cache=default_cache_folder(),
        device=resolve_device(device),
    )

    def say(line: str) -> None:
        console.print(f"[dim]{escape(line)}[/]", highlight=False, soft_wrap=True)

    found = check_change(change, builtin_methods(), options, say)
    _write(found.summary, summary or _step_summary())
    for problem in found.problems:
        console.print(f"[bold red]wrong[/] {escape(problem)}", highlight=False, soft_wrap=True)
    count = len(found.problems)
    console.print(f"{count} problems" if count else "nothing stands against it", highlight=False)
    if count:
        raise typer.Exit(1)


def _step_summary() -> Path | None:
    path = os.environ.get("GITHUB_STEP_SUMMARY")
    return Path(path) if path else None


def _write(text: str, path: Path | None) -> None:
    """To the end of a file that others write to as well, or to the terminal."""
    if path is None:
        print(text, end="")
        return
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise CompatbenchError(f"cannot write {path}: {error.strerror}") from None
