"""``compatbench list``: methods, tasks, backbones, suites, transfers and modules as tables."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from compatbench.cli.options import OutOption, complete_methods
from compatbench.cli.tables import print_frame
from compatbench.data.cards import backbone_cards, suite_cards, task_cards
from compatbench.errors import CompatbenchError

console = Console()
# Columns that give way in a terminal narrower than WIDE.
WIDE = 120
HIDE = {"methods": ("paper", "idea"), "suites": ("title",), "transfers": (), "modules": ()}


class Kind(str, Enum):
    """What ``list`` can show."""

    methods = "methods"
    tasks = "tasks"
    backbones = "backbones"
    suites = "suites"
    transfers = "transfers"
    modules = "modules"


def _complete_any(context: typer.Context, incomplete: str) -> list[str]:
    names = {
        "tasks": task_cards.names,
        "backbones": backbone_cards.names,
        "suites": suite_cards.names,
    }.get(str(context.params.get("kind")), lambda: complete_methods(""))()
    return [name for name in names if name.startswith(incomplete)]


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    names: Annotated[
        str,
        typer.Argument(help="Names, globs, comma lists.", autocompletion=_complete_any),
    ] = "all",
    markdown: Annotated[
        bool,
        typer.Option("--markdown", help="Methods as the capability table docs/methods.md."),
    ] = False,
    out: OutOption = Path(),
) -> None:
    """List methods, tasks, backbones, suites, transfers or the modules in runs/.

    A terminal of 120 columns or more shows papers and ideas of the methods, too.
    """
    from compatbench import api

    if markdown:
        if kind is not Kind.methods:
            raise CompatbenchError(f"--markdown is for methods, not for {kind.value}")
        from compatbench.conformance.methods_page import render_methods
        from compatbench.method.registry import builtin_methods

        registry = builtin_methods()
        # Not through the console, which would wrap it.
        print(render_methods(registry, registry.select(names)), end="")
    elif kind is Kind.modules:
        # A path is to be copied: the terminal may wrap it, the table may not.
        print_frame(Console(file=console.file, width=250), api.modules(names, out))
    elif kind is Kind.transfers:
        print_frame(console, api.transfers())
    else:
        listing = {
            Kind.methods: api.methods,
            Kind.tasks: api.tasks,
            Kind.backbones: api.backbones,
            Kind.suites: api.suites,
        }[kind]
        print_frame(console, listing(names), hide=HIDE.get(kind.value, ()), narrow=WIDE)
