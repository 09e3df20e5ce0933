"""Finds method adapters: in ``methods/``, in a file anywhere, in an installed package."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from compatbench.data.cards import select_names, unknown_name
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import method_files
from compatbench.method import Method, MethodCard
from compatbench.method.identity import class_file
from compatbench.method.plugin import is_plugin, load_file, plain_names

_NO_METHOD = "defines no method: a Method subclass with a card"


@dataclass
class MethodRegistry:
    """The method classes by name, and the files that could not be loaded.

    A broken file is remembered with its error and harms only those who ask for it.
    """

    classes: dict[str, type[Method]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """All names: zero-shot first, as the floor of every comparison, then by name."""
        return sorted(self.classes, key=lambda name: (self.classes[name].card.learns, name))

    def get(self, name: str) -> type[Method]:
        """The class of this name.

        Raises:
            CompatbenchError: no such method, or its file could not be loaded.
        """
        if name in self.broken:
            raise CompatbenchError(self.broken[name])
        if name not in self.classes:
            raise CompatbenchError(unknown_name(name, self.names(), "method"))
        return self.classes[name]

    def select(self, wanted: str, also: Sequence[str] = ()) -> list[str]:
        """The names that a selection means, ``also`` among them; ``.py`` files are loaded.

        Raises:
            CompatbenchError: an unknown name, or a file that cannot be loaded.
        """
        names: list[str] = []
        for part in filter(None, (part.strip() for part in wanted.split(","))):
            if part.endswith(".py"):
                names += self.add_file(Path(part))
            elif part in self.broken:
                raise CompatbenchError(self.broken[part])
            else:
                names.append(part)
        return select_names(names, [*self.names(), *also], "method")

    @staticmethod
    def plugin_file(method: type[Method]) -> str | None:
        """The file that ``--methods`` loaded a class from; None for an installed method."""
        return str(class_file(method)) if is_plugin(method) else None

    def add_file(self, path: Path) -> list[str]:
        """Loads a method file, running its code, and returns the names it defines.

        Raises:
            CompatbenchError: the file is missing, fails to load, or defines no method.
        """
        if not path.is_file():
            raise CompatbenchError(f"method file {path} does not exist")
        try:
            module = load_file(path)
        except Exception as error:
            raise CompatbenchError(_describe_import_error(error, path)) from None
        found = _methods_in(module)
        if not found:
            raise CompatbenchError(f"{path} {_NO_METHOD}")
        return self._add(found)

    def load(
        self, name: str, path: Path, load: Callable[[], object], needs_method: bool = False
    ) -> None:
        """Adds what is loaded; an error is remembered under the name."""
        try:
            found = _methods_in(load())
        except Exception as error:
            self.broken[name] = _describe_import_error(error, path)
            return
        if needs_method and not found:
            self.broken[name] = f"{path} {_NO_METHOD}"
        self._add(found)

    def _add(self, found: Sequence[type[Method]]) -> list[str]:
        for cls in found:
            name = cls.card.name
            other = self.classes.get(name)
            if other is not None and class_file(other) != class_file(cls):
                raise CompatbenchError(
                    f"method name '{name}' is taken twice: by {class_file(other)} "
                    f"and by {class_file(cls)}; rename one"
                )
            self.classes[name] = cls
        return [cls.card.name for cls in found]


def _methods_in(loaded: object) -> list[type[Method]]:
    """A method itself, those that a module defines, or those that a package has of its modules."""
    if not isinstance(loaded, ModuleType):
        return [loaded] if _has_card(loaded) else []
    return [
        value
        for value in vars(loaded).values()
        if _has_card(value) and f"{value.__module__}.".startswith(f"{loaded.__name__}.")
    ]


def _has_card(value: object) -> TypeGuard[type[Method]]:
    return (
        isinstance(value, type)
        and issubclass(value, Method)
        and isinstance(value.__dict__.get("card"), MethodCard)
    )


def _describe_import_error(error: Exception, path: Path) -> str:
    """One line for a file that failed to load: where, and what."""
    if isinstance(error, SyntaxError):
        # A file that is no text has no lines.
        line = f":{error.lineno}" if error.lineno else ""
        return f"{error.filename or path}{line}: SyntaxError: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.resolve()]
    line = f":{lines[-1]}" if lines else ""
    text = plain_names(str(error)).partition("\n")[0]
    return f"{path}{line}: {type(error).__name__}: {text}"


@lru_cache(maxsize=1)
def builtin_methods() -> MethodRegistry:
    """The methods in ``methods/`` and in installed packages.

    An entry point names a method, or a module or package with methods.

    Raises:
        CompatbenchError: two methods bear one name.
    """
    registry = MethodRegistry()
    for path in method_files():
        module = f"compatbench.methods.{path.stem}"
        registry.load(path.stem, path, partial(importlib.import_module, module))
    for entry in entry_points(group="compatbench.methods"):
        registry.load(entry.name, Path(entry.value), entry.load, needs_method=True)
    return registry
