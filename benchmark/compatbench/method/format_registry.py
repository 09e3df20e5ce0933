"""Finds formats: here, in a file anywhere, in an installed package."""

from __future__ import annotations

import importlib
import warnings
from functools import lru_cache
from pathlib import Path

from compatbench.data.cards import unknown_name
from compatbench.errors import CompatbenchError, CompatbenchWarning
from compatbench.files.project_folders import content_files
from compatbench.method.checkpoint_reader import Checkpoint
from compatbench.method.format import Format
from compatbench.method.registry import Registry


class FormatRegistry(Registry[Format]):
    """The format classes by name; one without a name of its own serves others."""

    kind = "format"
    root = Format
    mark, mark_type = "name", str


def find_format(name: str) -> Format:
    """The format of this name, or the one that a ``.py`` file defines, which is run.

    Raises:
        CompatbenchError: there is none, or the file cannot be loaded.
    """
    if name.endswith(".py"):
        registry = FormatRegistry()
        if len(found := registry.add_file(Path(name))) > 1:
            raise CompatbenchError(f"{name} defines {len(found)} formats; it should be one")
        return registry.get(found[0])()
    known = formats()
    if (name := name.replace("-", "_")) not in known:
        raise CompatbenchError(unknown_name(name, sorted(known), "format"))
    return known[name]


@lru_cache(maxsize=1)
def formats() -> dict[str, Format]:
    """All formats by name; an installed one that cannot be loaded is left out."""
    registry = FormatRegistry()
    for path in content_files("formats"):
        registry.put_all(importlib.import_module(f"compatbench.formats.{path.stem}"))
    registry.add_all(())
    for name, why in registry.broken.items():
        what = f"format '{name}' cannot be loaded: {why}"
        warnings.warn(what, CompatbenchWarning, stacklevel=2)
    return {name: cls() for name, cls in registry.classes.items()}


def recognise(file: Checkpoint) -> list[str]:
    """The formats whose names and shapes a file has; one at most of those that are here."""
    return [name for name, one in formats().items() if one.recognise(file)]
