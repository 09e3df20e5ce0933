"""Names of what the folders of ``extras/`` contribute; to know them imports nothing heavy.

An extra is a folder whose ``__init__`` has constants alone:

    FUNCTIONS   name in ``compatbench`` -> place of the function
    COMMANDS    modules that add commands to ``compatbench.cli.groups`` when they are imported
    SECTIONS    page and place on it -> place of the section
    FIGURES     kind of figure -> place of the figure

A *place* is ``module:attribute``; modules are named from the extra's folder on. Without its folder,
all that an extra contributes is gone, and nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parent


def extras() -> Iterator[ModuleType]:
    """Yield the packages of the extras, by name."""
    folders = pkgutil.iter_modules([str(ROOT / "extras")])
    for name in sorted(folder.name for folder in folders):
        yield importlib.import_module(f"compatbench.extras.{name}")


@cache
def offered(kind: str) -> dict[str, str]:
    """Return the places that the extras contribute to a kind, by name.

    Raises:
        ValueError: Two extras contribute the same name.
    """
    places: dict[str, str] = {}
    for package in extras():
        for name, place in getattr(package, kind, {}).items():
            whole_place = f"{package.__name__}.{place}"
            if name in places:
                raise ValueError(f"'{name}' is offered twice: {places[name]} and {whole_place}")
            places[name] = whole_place
    return places


def command_modules() -> list[str]:
    """Return the modules of the extras that have commands."""
    modules = []
    for package in extras():
        for name in getattr(package, "COMMANDS", ()):
            modules.append(f"{package.__name__}.{name}")
    return modules


def load(place: str) -> Any:
    """Return what is at a place."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
