"""What there is to choose from, as frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


Names = str | Sequence[str]


def methods(names: Names = "all") -> pd.DataFrame:
    """The method adapters: name, title, depth, where they insert, paper, and the idea.

    Raises:
        CompatbenchError: an unknown name, or a method file that cannot be loaded.
    """
    from compatbench.engine.listing import list_methods

    return list_methods(names)


def tasks(names: Names = "all") -> pd.DataFrame:
    """The tasks and their variants: name, title, kind, classes, training and test images."""
    from compatbench.engine.listing import list_tasks

    return list_tasks(names)


def backbones(names: Names = "all") -> pd.DataFrame:
    """The backbones that have a card: name, title, architecture, lineage."""
    from compatbench.engine.listing import list_backbones

    return list_backbones(names)


def suites(names: Names = "all") -> pd.DataFrame:
    """The suites: name, title, upgrades, tasks, shots, seeds."""
    from compatbench.engine.listing import list_suites

    return list_suites(names)


def transfers() -> pd.DataFrame:
    """The ways of bringing a module to a backbone: name, what each needs, and what it does."""
    from compatbench.engine.listing import list_transfers

    return list_transfers()


def modules(methods: Names = "all", out: str | Path = ".") -> pd.DataFrame:
    """The modules in ``runs/``: method, task, source, shots, seed, file."""
    from compatbench.engine.listing import list_modules

    return list_modules(methods, Path(out))
