"""``compatbench list``: methods, tasks, backbones, suites and modules as tables."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compatbench.data.cards import (
    backbone_cards,
    select_names,
    suite_cards,
    suite_tasks,
    task_cards,
)
from compatbench.data.shots import show_shots
from compatbench.errors import CompatbenchError
from compatbench.results.measures import upgrade_pairs


def show(console: Console, kind: str, names: str, out: Path = Path()) -> None:
    """Prints the things of a kind that a selection means.

    Args:
        names: of modules, the names of their methods.
        out: the folder of ``runs/``, for modules.

    Raises:
        CompatbenchError: a name that nothing bears, or a broken card.
    """
    if kind == "modules":
        columns, rows = _modules(names, out)
    else:
        columns, rows = {
            "methods": _methods,
            "tasks": _tasks,
            "backbones": _backbones,
            "suites": _suites,
        }[kind](names)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        number = column in ("classes", "train", "test", "cells")
        table.add_column(
            column, justify="right" if number else "left", overflow="fold", no_wrap=column == "name"
        )
    for row in rows:
        table.add_row(*(escape(value) for value in row))
    # A path is to be copied: the terminal may wrap it, the table may not.
    wide = Console(file=console.file, width=250)
    (wide if kind == "modules" else console).print(table)


def show_markdown(kind: str, names: str) -> None:
    """Prints the capability table of methods.

    Raises:
        CompatbenchError: an unknown method, or another kind of thing.
    """
    if kind != "methods":
        raise CompatbenchError(f"--markdown is for methods, not for {kind}")
    from compatbench.cli.methods_page import render_methods
    from compatbench.method.registry import builtin_methods

    registry = builtin_methods()
    # Not through the console, which would wrap it.
    print(render_methods(registry, registry.select(names)), end="")


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
    for name in task_cards.select_names(names):
        card = cards[name]
        classes = card.subset or cards.get(card.parent or "", card).classes
        kind = f"variant of {card.parent}" if card.parent else "task"
        counts = [str(card.counts.get(split, "-")) for split in ("train", "test")]
        rows.append([name, card.title, kind, str(len(classes)), *counts])
    return ["name", "title", "kind", "classes", "train", "test"], rows


def _backbones(names: str) -> Listing:
    rows = [
        [
            card.name,
            card.title,
            card.config or f"{card.provider}: {card.repository or card.path}",
            card.lineage or "trained from scratch",
        ]
        for card in backbone_cards.select(names)
    ]
    return ["name", "title", "architecture", "lineage"], rows


def _suites(names: str) -> Listing:
    rows = []
    for card in suite_cards.select(names):
        pairs = upgrade_pairs(card.upgrades)
        upgrades = " → ".join(pairs[0]) if len(pairs) == 1 else f"{len(pairs)} upgrades"
        tasks = suite_tasks(card)
        count = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
        shots = ", ".join(str(show_shots(each)) for each in card.shots)
        seeds = ", ".join(map(str, card.seeds))
        rows.append([card.name, card.title, upgrades, count, shots, seeds])
    return ["name", "title", "upgrades", "tasks", "shots", "seeds"], rows


def _modules(names: str, out: Path) -> Listing:
    from compatbench.engine.evaluate import Fitted
    from compatbench.method.module import load_module

    rows = []
    for path in sorted(out.glob("runs/modules/*/*.safetensors")):
        fitted = Fitted.model_validate(load_module(path)[1])
        draw = [str(show_shots(fitted.shots)), str(fitted.seed)]
        rows.append([fitted.method, fitted.task, fitted.source, *draw, str(path)])
    chosen = select_names(names, sorted({row[0] for row in rows}), "method with a module")
    rows = sorted(row for row in rows if row[0] in chosen)
    return ["method", "task", "source", "shots", "seed", "file"], rows
