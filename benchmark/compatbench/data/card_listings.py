"""What cards there are, as frames."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from compatbench.data.cards import backbone_cards, suite_cards, suite_tasks, task_cards
from compatbench.data.cards.shots import show_shots

Names = str | Sequence[str]


def tasks(names: Names = "all") -> pd.DataFrame:
    """The tasks and their variants: name, title, kind, classes, training and test images.

    Image counts are missing where no card gives them.
    """
    chosen, rows = task_cards.select_names(names), []
    cards = {name: task_cards.read(name) for name in task_cards.names()}
    for name in chosen:
        card = cards[name]
        classes = card.subset or cards.get(card.parent or "", card).classes
        kind = f"variant of {card.parent}" if card.parent else "task"
        counts = [card.counts.get(split) for split in ("train", "test")]
        rows.append((name, card.title, kind, len(classes), *counts))
    frame = pd.DataFrame(rows, columns=["name", "title", "kind", "classes", "train", "test"])
    return frame.astype({"train": "Int64", "test": "Int64"})


def backbones(names: Names = "all") -> pd.DataFrame:
    """The backbones that have a card: name, title, architecture, lineage."""
    rows = []
    for card in backbone_cards.select(names):
        architecture = card.config or f"{card.provider}: {card.repository or card.path}"
        rows.append((card.name, card.title, architecture, card.lineage or "trained from scratch"))
    return pd.DataFrame(rows, columns=["name", "title", "architecture", "lineage"])


def suites(names: Names = "all") -> pd.DataFrame:
    """The suites: name, title, upgrades, tasks, shots, seeds."""
    rows = []
    for card in suite_cards.select(names):
        pairs = {(path[0], target) for path in card.upgrades for target in path[1:]}
        upgrades = " → ".join(*pairs) if len(pairs) == 1 else f"{len(pairs)} upgrades"
        chosen = suite_tasks(card)
        count = chosen[0] if len(chosen) == 1 else f"{len(chosen)} tasks"
        draws = [", ".join(map(str, each)) for each in (map(show_shots, card.shots), card.seeds)]
        rows.append((card.name, card.title, upgrades, count, *draws))
    return pd.DataFrame(rows, columns=["name", "title", "upgrades", "tasks", "shots", "seeds"])
