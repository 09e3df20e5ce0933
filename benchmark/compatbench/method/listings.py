"""What content there is, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import getdoc

import pandas as pd

from compatbench.method.registry import builtin_formats, builtin_methods, builtin_transfers
from compatbench.method.transfer import ACCESS, ANYWHERE


def methods(names: str | Sequence[str] = "all") -> pd.DataFrame:
    """The method adapters: name, title, depth, where they insert, needs, paper, and the idea.

    Those that cannot be loaded come last, with the reason.

    Raises:
        CompatbenchError: an unknown name, or a method file that cannot be loaded.
    """
    registry = builtin_methods()
    rows = []
    for name in registry.select(names if isinstance(names, str) else ",".join(names)):
        card = registry.get(name).card
        places, needs = ", ".join(card.places), ", ".join(sorted(card.needs))
        rows.append((name, card.title, card.depth, places, needs, card.paper, card.summary))
    if names == "all":
        broken = registry.broken.items()
        rows += [(n, "cannot be loaded", "", "", "", "", why) for n, why in broken]
    columns = ["name", "title", "depth", "inserts", "needs", "paper", "idea"]
    return pd.DataFrame(rows, columns=columns)


def transfers() -> pd.DataFrame:
    """The transfers, which move a module to a backbone, those that need least first.

    Name, settings that may follow it after ``+``, what it needs beside the module, the places at
    which modules may act, title, paper, and what it does.
    """
    rows = []
    for cls in builtin_transfers().classes.values():
        card, numbered = cls.card, "shots" in cls.Config.model_fields
        needs = ", ".join(kind for kind in ACCESS if kind in card.access) or "none"
        takes = "all" if card.takes >= ANYWHERE else ", ".join(sorted(card.takes))
        settings = ", ".join([*card.settings, *["labels per class"] * numbered])
        about = (settings, needs, takes, card.title, card.paper, card.summary)
        rows.append((card.name, *about))
    rows.sort(key=lambda row: (row[2] != "none", len(row[2].split(", ")), row[2], row[0]))
    columns = ["name", "settings", "needs", "takes", "title", "paper", "what it does"]
    return pd.DataFrame(rows, columns=columns)


def formats() -> pd.DataFrame:
    """The formats: name, method of the modules, settings that have to be given, and of what code.

    A format that cannot be loaded is left out, with a warning.
    """
    rows = []
    for name, cls in sorted(builtin_formats().classes.items()):
        code = (getdoc(cls) or "").partition("\n")[0].replace("``", "")
        rows.append((name, cls.method, ", ".join(cls.needs), code))
    return pd.DataFrame(rows, columns=["name", "method", "settings to give", "code"])
