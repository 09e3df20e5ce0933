"""What the core and the folders of ``extras/`` offer by name; nothing of it is imported to know so.

The functions of ``compatbench`` that are the core's are the imports of ``__init__.pyi``. An extra
is a folder whose ``__init__`` has constants alone, each a dictionary:

    FUNCTIONS   name in ``compatbench`` -> place of the function
    COMMANDS    words of a command, such as ``study claims`` -> ``Command``. All words but the
                last are groups
    GROUPS      a word before several commands -> their help
    SECTIONS    page and place on it -> place of the section
    FIGURES     kind of figure -> place of the figure

A *place* is ``module:attribute``, the module below the extra's folder. Without its folder, all
that an extra offers is gone, and nothing else.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
REQUIRED = object()  # the default of a parameter that has none


@dataclass(frozen=True)
class Option:
    """What a shell needs to know of a parameter beside its type and its line in the docstring.

    Attributes:
        names: in place of ``--its-name``; ``""`` makes it an argument, which has no name.
        help: in place of the docstring's.
        annotation, default: in place of the signature's, as text, and as value or ``REQUIRED``.
        metavar: what stands for the value in the help.
        repeated: it may be given several times, and its value is a list.
        completes: kind of names that it takes: suites, tasks, methods, backbones or transfers.
        least, most: bounds of a number.
        envvar: variable that gives the value where the option does not.
        read: place of the function that makes the value of the text.
        at_once: place of a function that is called with the value before anything else is done.
    """

    names: tuple[str, ...] | str = ()
    help: str = ""
    annotation: str = ""
    default: Any = ...
    metavar: str | None = None
    repeated: bool = False
    completes: str = ""
    least: float | None = None
    most: float | None = None
    envvar: str | None = None
    read: str = ""
    at_once: str = ""


@dataclass(frozen=True)
class Command:
    """A command, made from a function: its signature gives the options, its docstring the help.

    Attributes:
        function: a name in ``compatbench``, or the place of a function of the shell's alone.
        panel: where the top of ``--help`` shows it (``cli.app.PANELS``); one of a group has none.
        shown: place of the function that is given the ``Call``, makes it, and prints what it
            gives; by default that is printed as it is. What it returns is the exit code.
        note: what a shell's user has to know beside the docstring: an example, the exit codes.
        options: by parameter. Of a parameter that the function has not, an option for ``shown``.
        also: options of every command that wants them (``cli.options.SHARED``), by name.
        records: parameter -> class whose fields are options, and the names of these; all if none.
    """

    function: str
    panel: str = ""
    shown: str = ""
    note: str = ""
    options: Mapping[str, Option] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@cache
def functions() -> dict[str, str]:
    """The places of the functions of ``compatbench``, by name."""
    core = {}
    for statement in ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.ImportFrom) and statement.module != "typing":
            core |= {alias.name: f"{statement.module}:{alias.name}" for alias in statement.names}
    return _merge(core, offered("FUNCTIONS"))


@cache
def offered(kind: str) -> dict[str, Any]:
    """What the extras offer of a kind, by name; two that offer one name are an error."""
    entries: dict[str, Any] = {}
    for folder in sorted(pkgutil.iter_modules([str(ROOT / "extras")]), key=lambda each: each.name):
        package = importlib.import_module(f"compatbench.extras.{folder.name}")
        constant = getattr(package, kind, {})
        placed = {name: _place(value, package.__name__) for name, value in constant.items()}
        entries = _merge(entries, placed)
    return entries


def load(place: str) -> Any:
    """What stands at a place, or has the name in ``compatbench``."""
    module, _, attribute = functions().get(place, place).partition(":")
    return getattr(importlib.import_module(module), attribute)


def _merge(entries: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    if both := entries.keys() & more.keys():
        name = min(both)
        raise ValueError(f"'{name}' is offered twice: {entries[name]} and {more[name]}")
    return entries | more


def _place(value: Any, package: str) -> Any:
    """A value of an extra with its places from ``compatbench.`` on."""
    if isinstance(value, str):
        is_place = re.fullmatch(r"[\w.]+:\w+", value) and not value.startswith("compatbench.")
        return f"{package}.{value}" if is_place else value
    if isinstance(value, Option):
        return replace(value, read=_place(value.read, package))
    if isinstance(value, Command):
        options = {name: _place(option, package) for name, option in value.options.items()}
        records = {
            name: (_place(place, package), *fields)
            for name, (place, *fields) in value.records.items()
        }
        places = {"function": value.function, "shown": value.shown}
        placed = {name: _place(place, package) for name, place in places.items()}
        return replace(value, **placed, options=options, records=records)
    return value
