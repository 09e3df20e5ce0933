"""``compatbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from compatbench.errors import CompatbenchError
from compatbench.leaderboard.publish import render_pages, write_pages


def leaderboard_command(console: Console, *, out: Path, check: bool) -> None:
    """Makes leaderboard.md from results/, or checks that it is up to date.

    Raises:
        CompatbenchError: no results, a broken results file, or (``check``) a stale page.
    """
    pages = render_pages(out)
    if not check:
        write_pages(out)
    for path, text in pages.items():
        if not path.is_file() or path.read_bytes() != text.encode():
            raise CompatbenchError(
                f"{path} is not what results/ gives; run 'compatbench leaderboard'"
            )
        console.print(f"{path} is up to date", highlight=False)
