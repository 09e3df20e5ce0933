"""What ``compatbench leaderboard`` and ``report`` print of the pages that they write."""

from __future__ import annotations

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import say


def leaderboard(call: Call) -> None:
    """Names the pages."""
    for path in call():
        say(escape(f"{path} is up to date"))


def report(call: Call) -> None:
    """Names the site's first page, and what is left out."""
    made = call()
    for line in made.left_out:
        say(escape(line))
    verb = "is up to date" if call.arguments["check"] else "written"
    page = next(path for path in made.files if path.name == "index.html")
    figures = sum(path.suffix == ".svg" for path in made.files)
    say(escape(f"{page} {verb}, {figures} figures beside it"))
