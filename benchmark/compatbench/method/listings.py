"""Lists of methods, transfers and formats, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getdoc

import pandas as pd

from compatbench.method.registry import builtin_formats, builtin_methods, builtin_transfers
from compatbench.method.transfer import ACCESS, ANYWHERE


def methods(names: str | Sequence[str] = "all") -> pd.DataFrame:
    """List the method adapters: name, title, depth, where they insert, needs, paper, and the idea.

    Methods that cannot be loaded come last, with the reason.

    Raises:
        CompatbenchError: an unknown name, or a method file that cannot be loaded.
    """
    registry = builtin_methods()
    if not isinstance(names, str):
        names = ",".join(names)
    rows = []
    for name in registry.select(names):
        card = registry.get(name).card
        places = ", ".join(card.places)
        needs = ", ".join(sorted(card.needs))
        rows.append((name, card.title, card.depth, places, needs, card.paper, card.summary))
    if names == "all":
        for name, reason in registry.broken.items():
            rows.append((name, "cannot be loaded", "", "", "", "", reason))
    columns = ["name", "title", "depth", "inserts", "needs", "paper", "idea"]
    return pd.DataFrame(rows, columns=columns)


def transfers(names: str | Sequence[str] = "all") -> pd.DataFrame:
    """List the transfers, which move a module to a backbone, those that need least first.

    The columns are the name, the settings that may follow it after ``+``, its needs beside the
    module, the places where its modules may act, the title, the paper, and what it does.

    Raises:
        CompatbenchError: an unknown name, or a transfer file that cannot be loaded.
    """
    registry = builtin_transfers()
    if not isinstance(names, str):
        names = ",".join(names)
    rows = []
    for name in registry.select(names):
        cls = registry.get(name)
        card = cls.card
        needs = ", ".join(kind for kind in ACCESS if kind in card.access) or "none"
        takes = "all" if card.takes >= ANYWHERE else ", ".join(sorted(card.takes))
        settings = list(card.settings)
        if "shots" in cls.Config.model_fields:
            settings.append("labels per class")
        about = (", ".join(settings), needs, takes, card.title, card.paper, card.summary)
        rows.append((card.name, *about))

    def place(row: tuple[str, ...]) -> tuple[bool, int, str, str]:
        name = row[0]
        needs = row[2]
        return needs != "none", len(needs.split(", ")), needs, name

    rows.sort(key=place)
    columns = ["name", "settings", "needs", "takes", "title", "paper", "what it does"]
    return pd.DataFrame(rows, columns=columns)


def formats() -> pd.DataFrame:
    """List the formats: name, method of the modules, settings to give, and the code that writes it.

    A format that cannot be loaded is left out, with a warning.
    """
    rows = []
    for name, cls in sorted(builtin_formats().classes.items()):
        code = (getdoc(cls) or "").partition("\n")[0].replace("``", "")
        rows.append((name, cls.method, ", ".join(cls.needs), code))
    return pd.DataFrame(rows, columns=["name", "method", "settings to give", "code"])
