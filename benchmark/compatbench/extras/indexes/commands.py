"""``compatbench index measure``, ``map`` and ``port``."""

from __future__ import annotations

from rich.markup import escape

from compatbench.cli.command import Call
from compatbench.cli.output import say
from compatbench.cli.stoppable import stoppable


def measure(call: Call) -> None:
    """Print the verdict and the table."""
    measured = call()
    if not call.prints_json(measured):
        say(escape(str(measured)))


def fit(call: Call) -> None:
    """Write the map, and print how good it is."""
    fitted = call()
    say(escape(f"wrote {call.arguments['out']}: {fitted}"))


def port(call: Call) -> None:
    """Write the mapped index, and print what it is."""
    with stoppable("no index was written"):
        ported = call()
    say(escape(str(ported)))
