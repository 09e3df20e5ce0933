"""What there is to choose from, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

Names = str | Sequence[str]


def methods(names: Names = "all") -> pd.DataFrame:
    """The method adapters: name, title, depth, where they insert, needs, paper, and the idea.

    Those that cannot be loaded come last, with the reason.

    Raises:
        CompatbenchError: an unknown name, or a method file that cannot be loaded.
    """
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    rows = []
    for name in registry.select(names if isinstance(names, str) else ",".join(names)):
        card = registry.get(name).card
        places, needs = ", ".join(card.places), ", ".join(sorted(card.needs))
        rows.append((name, card.title, card.depth, places, needs, card.paper, card.summary))
    if names == "all":
        broken = registry.broken.items()
        rows += [(n, "cannot be loaded", "", "", "", "", why) for n, why in broken]
    return _frame(rows, "name", "title", "depth", "inserts", "needs", "paper", "idea")


def tasks(names: Names = "all") -> pd.DataFrame:
    """The tasks and their variants: name, title, kind, classes, training and test images.

    Image counts are missing where no card gives them.
    """
    from compatbench.data.cards import task_cards

    chosen, rows = task_cards.select_names(names), []
    cards = {name: task_cards.read(name) for name in task_cards.names()}
    for name in chosen:
        card = cards[name]
        classes = card.subset or cards.get(card.parent or "", card).classes
        kind = f"variant of {card.parent}" if card.parent else "task"
        counts = [card.counts.get(split) for split in ("train", "test")]
        rows.append((name, card.title, kind, len(classes), *counts))
    frame = _frame(rows, "name", "title", "kind", "classes", "train", "test")
    return frame.astype({"train": "Int64", "test": "Int64"})


def backbones(names: Names = "all") -> pd.DataFrame:
    """The backbones that have a card: name, title, architecture, lineage."""
    from compatbench.data.cards import backbone_cards

    rows = []
    for card in backbone_cards.select(names):
        architecture = card.config or f"{card.provider}: {card.repository or card.path}"
        rows.append((card.name, card.title, architecture, card.lineage or "trained from scratch"))
    return _frame(rows, "name", "title", "architecture", "lineage")


def suites(names: Names = "all") -> pd.DataFrame:
    """The suites: name, title, upgrades, tasks, shots, seeds."""
    from compatbench.data.cards import suite_cards, suite_tasks
    from compatbench.data.cards.shots import show_shots

    rows = []
    for card in suite_cards.select(names):
        pairs = {(path[0], target) for path in card.upgrades for target in path[1:]}
        upgrades = " → ".join(*pairs) if len(pairs) == 1 else f"{len(pairs)} upgrades"
        chosen = suite_tasks(card)
        count = chosen[0] if len(chosen) == 1 else f"{len(chosen)} tasks"
        draws = [", ".join(map(str, each)) for each in (map(show_shots, card.shots), card.seeds)]
        rows.append((card.name, card.title, upgrades, count, *draws))
    return _frame(rows, "name", "title", "upgrades", "tasks", "shots", "seeds")


def transfers() -> pd.DataFrame:
    """The ways of bringing a module to a backbone, those that need least first.

    Name, settings that may follow it after ``+``, what it needs beside the module, the places at
    which modules may act, title, paper, and what it does.
    """
    from compatbench.method.registry import builtin_transfers
    from compatbench.method.transfer import ACCESS, EVERYWHERE

    rows = []
    for cls in builtin_transfers().classes.values():
        card, numbered = cls.card, "shots" in cls.Config.model_fields
        needs = ", ".join(one for one in ACCESS if one in card.access) or "none"
        takes = "all" if card.takes == EVERYWHERE else ", ".join(sorted(card.takes))
        settings = ", ".join([*card.settings, *["labels per class"] * numbered])
        about = (settings, needs, takes, card.title, card.paper, card.summary)
        rows.append((card.name, *about))
    rows.sort(key=lambda row: (row[2] != "none", len(row[2].split(", ")), row[2], row[0]))
    names = ("name", "settings", "needs", "takes", "title", "paper", "what it does")
    return _frame(rows, *names)


def formats() -> pd.DataFrame:
    """The formats: name, method of the modules, settings that have to be given, and of what code.

    A format that cannot be loaded is left out, with a warning.
    """
    from inspect import getdoc

    from compatbench.method.registry import builtin_formats

    rows = []
    for name, cls in sorted(builtin_formats().classes.items()):
        code = (getdoc(cls) or "").partition("\n")[0].replace("``", "")
        rows.append((name, cls.method, ", ".join(cls.needs), code))
    return _frame(rows, "name", "method", "settings to give", "code")


def modules(methods: Names = "all", out: str | Path = ".") -> pd.DataFrame:
    """The modules in ``runs/``: method, task, source, shots, seed, file.

    Raises:
        CompatbenchError: no module of a method, or a damaged file.
    """
    from compatbench.data.cards import select_names
    from compatbench.data.cards.shots import show_shots
    from compatbench.engine.single_module import Fitted
    from compatbench.errors import CompatbenchError
    from compatbench.method import load_module

    folder = Path(out) / "runs" / "modules"
    rows = []
    for path in sorted(folder.glob("*/*.safetensors")):
        fitted = Fitted.model_validate(load_module(path).about)
        shots = None if fitted.shots is None else show_shots(fitted.shots)
        draw = (shots, fitted.seed)
        rows.append((fitted.method, fitted.task, fitted.source, *draw, str(path)))
    if not rows:
        raise CompatbenchError(f"{folder} holds no modules; run a suite first")
    chosen = select_names(methods, sorted({row[0] for row in rows}), "method with a module")
    rows = sorted((row for row in rows if row[0] in chosen), key=str)  # shots may be unknown
    return _frame(rows, "method", "task", "source", "shots", "seed", "file")


def _frame(rows: Sequence[tuple[object, ...]], *columns: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows, columns=pd.Index(columns))
