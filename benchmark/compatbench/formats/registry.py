"""Finds formats: here, in a file anywhere, in an installed package."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import compatbench.formats
from compatbench.data.cards import unknown_name
from compatbench.errors import CompatbenchError, CompatbenchWarning, first_line
from compatbench.formats.format import Format
from compatbench.formats.reader import Checkpoint

GROUP = "compatbench.formats"


def find_format(name: str) -> Format:
    """The format of this name, or the one that a ``.py`` file defines, which is run.

    Raises:
        CompatbenchError: there is none, or the file cannot be loaded.
    """
    if name.endswith(".py"):
        return _load_file(Path(name))
    known = formats()
    if (name := name.replace("-", "_")) not in known:
        raise CompatbenchError(unknown_name(name, sorted(known), "format"))
    return known[name]


@lru_cache(maxsize=1)
def formats() -> dict[str, Format]:
    """All formats by name; an installed one that cannot be loaded is left out."""
    found = {}
    for module in pkgutil.iter_modules(compatbench.formats.__path__):
        found |= _formats_in(importlib.import_module(f"{GROUP}.{module.name}"))
    for entry in entry_points(group=GROUP):
        try:
            found |= _formats_in(entry.load())
        except Exception as error:
            what = f"format '{entry.name}' cannot be loaded: {first_line(error)}"
            warnings.warn(what, CompatbenchWarning, stacklevel=2)
    return found


def recognise(file: Checkpoint) -> list[str]:
    """The formats whose names and shapes a file has; one at most of those that are here."""
    return [name for name, one in formats().items() if one.recognise(file)]


def _load_file(path: Path) -> Format:
    spec = spec_from_file_location(f"compatbench_format_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise CompatbenchError(f"format file {path} does not exist")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise CompatbenchError(f"{path}: {type(error).__name__}: {first_line(error)}") from None
    found = [*_formats_in(module).values()]
    if len(found) != 1:
        raise CompatbenchError(f"{path} defines {len(found)} formats with a name; it should be one")
    return found[0]


def _formats_in(module: object) -> dict[str, Format]:
    """Those that a module defines itself, or a class."""
    values = [module] if isinstance(module, type) else vars(module).values()
    here = getattr(module, "__name__", "") if not isinstance(module, type) else None
    classes = [
        value
        for value in values
        if isinstance(value, type) and issubclass(value, Format) and "name" in vars(value)
        if here is None or value.__module__ == here
    ]
    return {cls.name: cls() for cls in classes}
