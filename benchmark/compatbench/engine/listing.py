"""Frames of what there is to choose from: methods, tasks, backbones, suites, modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from compatbench.data.cards import (
    backbone_cards,
    select_names,
    suite_cards,
    suite_tasks,
    task_cards,
)
from compatbench.data.shots import show_shots
from compatbench.errors import CompatbenchError

Names = str | Sequence[str]


def list_methods(names: Names = "all") -> pd.DataFrame:
    """The methods; those that cannot be loaded come last, with the reason."""
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    rows = []
    for name in registry.select(names if isinstance(names, str) else ",".join(names)):
        card = registry.get(name).card
        places = ", ".join(card.places)
        rows.append((name, card.title, card.depth, places, card.paper, card.summary))
    if names == "all":
        rows += [(n, "cannot be loaded", "", "", "", why) for n, why in registry.broken.items()]
    return pd.DataFrame(rows, columns=["name", "title", "depth", "inserts", "paper", "idea"])


def list_tasks(names: Names = "all") -> pd.DataFrame:
    """The tasks and variants; image counts are missing where no card gives them."""
    chosen = task_cards.select_names(names)
    cards = {name: task_cards.read(name) for name in task_cards.names()}
    rows = []
    for name in chosen:
        card = cards[name]
        classes = card.subset or cards.get(card.parent or "", card).classes
        kind = f"variant of {card.parent}" if card.parent else "task"
        counts = [card.counts.get(split) for split in ("train", "test")]
        rows.append((name, card.title, kind, len(classes), *counts))
    columns = ["name", "title", "kind", "classes", "train", "test"]
    return pd.DataFrame(rows, columns=columns).astype({"train": "Int64", "test": "Int64"})


def list_backbones(names: Names = "all") -> pd.DataFrame:
    """The backbones that have a card."""
    rows = [
        (
            card.name,
            card.title,
            card.config or f"{card.provider}: {card.repository or card.path}",
            card.lineage or "trained from scratch",
        )
        for card in backbone_cards.select(names)
    ]
    return pd.DataFrame(rows, columns=["name", "title", "architecture", "lineage"])


def list_suites(names: Names = "all") -> pd.DataFrame:
    """The suites."""
    rows = []
    for card in suite_cards.select(names):
        pairs = {(path[0], target) for path in card.upgrades for target in path[1:]}
        upgrades = " → ".join(*pairs) if len(pairs) == 1 else f"{len(pairs)} upgrades"
        tasks = suite_tasks(card)
        count = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
        shots = ", ".join(str(show_shots(each)) for each in card.shots)
        rows.append(
            (card.name, card.title, upgrades, count, shots, ", ".join(map(str, card.seeds)))
        )
    return pd.DataFrame(rows, columns=["name", "title", "upgrades", "tasks", "shots", "seeds"])


def list_transfers() -> pd.DataFrame:
    """The transfers."""
    from compatbench.transfer import TRANSFERS

    cards = [cls.card for cls in TRANSFERS.values()]
    rows = [(card.name, card.access, card.summary) for card in cards]
    return pd.DataFrame(rows, columns=["name", "needs", "what it does"])


def list_modules(methods: Names = "all", out: Path = Path()) -> pd.DataFrame:
    """The modules that runs in a folder have left.

    Args:
        methods: names of their methods.
        out: the folder of ``runs/``.

    Raises:
        CompatbenchError: no module of a method, or a damaged file.
    """
    from compatbench.engine.single_module import Fitted
    from compatbench.method.module import load_module

    rows = []
    for path in sorted(out.glob("runs/modules/*/*.safetensors")):
        fitted = Fitted.model_validate(load_module(path)[1])
        draw = (show_shots(fitted.shots), fitted.seed)
        rows.append((fitted.method, fitted.task, fitted.source, *draw, str(path)))
    if not rows:
        raise CompatbenchError(f"{out / 'runs' / 'modules'} holds no modules; run a suite first")
    chosen = select_names(methods, sorted({row[0] for row in rows}), "method with a module")
    columns = ["method", "task", "source", "shots", "seed", "file"]
    return pd.DataFrame(sorted(row for row in rows if row[0] in chosen), columns=columns)
