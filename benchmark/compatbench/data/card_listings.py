"""Frames of the cards: tasks, backbones and suites."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from compatbench.data.cards import backbone_cards, suite_cards, suite_tasks, task_cards
from compatbench.data.cards.shots import show_shots

Names = str | Sequence[str]


def tasks(names: Names = "all") -> pd.DataFrame:
    """Return the tasks and variants: name, title, kind, classes, training and test images.

    Image counts are missing where no card gives them.
    """
    chosen = task_cards.select_names(names)
    cards = {name: task_cards.read(name) for name in task_cards.names()}
    rows = []
    for name in chosen:
        card = cards[name]
        kind = "task"
        owner = card  # the card that lists the classes
        if card.parent:
            kind = f"variant of {card.parent}"
            owner = cards.get(card.parent, card)
        classes = len(card.subset or owner.classes)
        train = card.counts.get("train")
        test = card.counts.get("test")
        rows.append((name, card.title, kind, classes, train, test))
    frame = pd.DataFrame(rows, columns=["name", "title", "kind", "classes", "train", "test"])
    return frame.astype({"train": "Int64", "test": "Int64"})


def backbones(names: Names = "all") -> pd.DataFrame:
    """Return the backbones that have a card: name, title, architecture, lineage."""
    rows = []
    for card in backbone_cards.select(names):
        place = card.repository or card.path
        architecture = card.config or f"{card.provider}: {place}"
        lineage = card.lineage or "trained from scratch"
        rows.append((card.name, card.title, architecture, lineage))
    return pd.DataFrame(rows, columns=["name", "title", "architecture", "lineage"])


def suites(names: Names = "all") -> pd.DataFrame:
    """Return the suites: name, title, upgrades, tasks, shots, seeds."""
    rows = []
    for card in suite_cards.select(names):
        pairs = set()
        for source, *targets in card.upgrades:
            for target in targets:
                pairs.add((source, target))
        upgrades = f"{len(pairs)} upgrades"
        if len(pairs) == 1:
            [(source, target)] = pairs
            upgrades = f"{source} → {target}"
        chosen = suite_tasks(card)
        tasks = chosen[0] if len(chosen) == 1 else f"{len(chosen)} tasks"
        shots = ", ".join(str(show_shots(number)) for number in card.shots)
        seeds = ", ".join(map(str, card.seeds))
        rows.append((card.name, card.title, upgrades, tasks, shots, seeds))
    return pd.DataFrame(rows, columns=["name", "title", "upgrades", "tasks", "shots", "seeds"])
