"""``compatbench list``: methods, tasks, backbones and suites as tables."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.cards import backbone_cards, select_names, suite_cards, task_cards


def show(console: Console, kind: str, names: str) -> None:
    """Prints the things of a kind that a selection means.

    Raises:
        CompatbenchError: a name that nothing bears, or a broken card.
    """
    columns, rows = {
        "methods": _methods,
        "tasks": _tasks,
        "backbones": _backbones,
        "suites": _suites,
    }[kind](names)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        number = column in ("classes", "train", "test", "cells")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(value) for value in row))
    console.print(table)


Listing = tuple[list[str], list[list[str]]]


def _methods(names: str) -> Listing:
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    rows = []
    for name in registry.select(names):
        card = registry.get(name).card
        rows.append(
            [name, card.title, card.depth, ", ".join(card.places), card.paper, card.summary]
        )
    if names == "all":
        rows += [
            [name, "cannot be loaded", "", "", "", why] for name, why in registry.broken.items()
        ]
    return ["name", "title", "depth", "inserts", "paper", "idea"], rows


def _tasks(names: str) -> Listing:
    cards = {name: task_cards.read(name) for name in task_cards.names()}
    rows = []
    for name in select_names(names, list(cards), "task"):
        card = cards[name]
        classes = cards[card.parent].classes if card.parent in cards else card.classes
        kind = f"variant of {card.parent}" if card.parent else "task"
        counts = [str(card.counts.get(split, "-")) for split in ("train", "test")]
        rows.append([name, card.title, kind, str(len(classes)), *counts])
    return ["name", "title", "kind", "classes", "train", "test"], rows


def _backbones(names: str) -> Listing:
    rows = [
        [card.name, card.title, card.config, card.lineage or "trained from scratch"]
        for card in backbone_cards.select(names)
    ]
    return ["name", "title", "architecture", "lineage"], rows


def _suites(names: str) -> Listing:
    rows = []
    for card in suite_cards.select(names):
        upgrades = "; ".join(" → ".join(upgrade) for upgrade in card.upgrades)
        shots, seeds = (", ".join(map(str, numbers)) for numbers in (card.shots, card.seeds))
        rows.append([card.name, card.title, upgrades, ", ".join(card.tasks), shots, seeds])
    return ["name", "title", "upgrades", "tasks", "shots", "seeds"], rows
