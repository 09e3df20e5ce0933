"""What ``compatbench report`` prints of the pages that it makes."""

from __future__ import annotations

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import say


def report(call: Call) -> None:
    """Names the first page of each kind, and what is left out."""
    made = call()
    for line in made.left_out:
        say(escape(line))
    verb = "is up to date" if call.arguments["check"] else "written"
    figures = sum(path.suffix == ".svg" for path in made.files)
    if made.pages:
        say(escape(f"{made.pages[0]} {verb}, with {len(made.pages) - 1} other pages"))
    site = next(path for path in made.files if path.name == "index.html")
    say(escape(f"{site} {verb}, with {figures} figures"))
