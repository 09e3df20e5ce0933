"""``compatbench leaderboard``."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from compatbench.errors import CompatbenchError
from compatbench.files import write_atomic
from compatbench.leaderboard.publish import LEADERBOARD, render_leaderboard


def leaderboard_command(console: Console, *, out: Path, check: bool) -> None:
    """Makes leaderboard.md from results/, or checks that it is up to date.

    Raises:
        CompatbenchError: no results, a broken results file, or (``check``) a stale page.
    """
    page = render_leaderboard(out)
    path = out / LEADERBOARD
    if check:
        if not path.is_file() or path.read_text(encoding="utf-8") != page:
            raise CompatbenchError(
                f"{path} is not what results/ gives; run 'compatbench leaderboard'"
            )
        console.print(f"{path} is up to date", highlight=False)
        return
    write_atomic(path, page.encode())
    console.print(f"wrote {path}", highlight=False)
