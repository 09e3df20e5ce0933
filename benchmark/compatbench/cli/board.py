"""``compatbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from compatbench.errors import CompatbenchError
from compatbench.pages.publish import render_pages, write_pages
from compatbench.pages.report.publish import check_report, write_report


def leaderboard_command(console: Console, *, out: Path, check: bool) -> None:
    """Makes leaderboard.md and its pictures from results/, or checks that they are up to date.

    Raises:
        CompatbenchError: no results, a broken results file, or (``check``) a stale page.
    """
    if check:
        check_report(out)
    else:
        write_report(out)
        write_pages(out)
    for path, text in render_pages(out).items():
        if not path.is_file() or path.read_bytes() != text.encode():
            raise CompatbenchError(
                f"{path} is not what results/ gives; run 'compatbench leaderboard'"
            )
        console.print(f"{path} is up to date", highlight=False)
