"""``compatbench migrate``: older result files and records, in the present layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from compatbench.cli.options import OutOption

console = Console()


def migrate(
    out: OutOption = Path(),
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit with 1 if a file is of an older layout."),
    ] = False,
) -> None:
    """Bring results/ and runs/ of an older compatbench to the present layout.

    Columns that did not exist stay empty; no number is changed. Each file is kept beside
    itself as '<name>.bak'. Files of the present layout are left untouched, to the byte, and
    one that is not understood is named before anything is written.
    """
    from compatbench.leaderboard.publish import RESULTS
    from compatbench.migrate import migrate_results, migrate_runs, write_rewrites

    rewrites = migrate_results(out / RESULTS, write=False) + migrate_runs(out / "runs", write=False)
    if not check:
        write_rewrites(rewrites)
    verb = "is" if check else "was"
    for rewrite in rewrites:
        console.print(
            f"{escape(str(rewrite.path))} {verb} {rewrite.what}", highlight=False, soft_wrap=True
        )
    if not rewrites:
        console.print("everything is of the present layout", highlight=False)
    elif check:
        console.print(f"{len(rewrites)} files; run 'compatbench migrate'", highlight=False)
        raise typer.Exit(1)
    else:
        console.print(f"{len(rewrites)} files migrated; the old ones are kept as *.bak")
