"""Finds method adapters: in ``methods/``, in a file anywhere, in an installed package."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from compatbench.data.cards import select_names, unknown_name
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import method_files
from compatbench.method import Method, MethodCard
from compatbench.method.code_hash import hash_class

ENTRY_POINTS = "compatbench.methods"
PLUGIN_PREFIX = "compatbench_plugin_"


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
        """The names that a selection means; parts that end in ``.py`` are loaded as files.

        Args:
            also: more names that may be meant, such as a suite's configs of methods.

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
        if method.__module__.startswith(PLUGIN_PREFIX):
            return str(Path(inspect.getfile(method)).resolve())
        return None

    def add_file(self, path: Path) -> list[str]:
        """Loads a method file, running its code, and returns the names it defines.

        Raises:
            CompatbenchError: the file is missing, fails to load, or defines no method.
        """
        if not path.is_file():
            raise CompatbenchError(f"method file {path} does not exist")
        name = f"{PLUGIN_PREFIX}{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise CompatbenchError(describe_import_error(error, path)) from None
        found = self._add_module(module)
        if not found:
            raise CompatbenchError(f"{path} defines no method: a Method subclass with a card")
        return found

    def _add_module(self, module: ModuleType) -> list[str]:
        found = list(_methods_in(module))
        for cls in found:
            name = cls.card.name
            other = self.classes.get(name)
            if other is not None and inspect.getfile(other) != inspect.getfile(cls):
                raise CompatbenchError(
                    f"method name '{name}' is taken twice: by {inspect.getfile(other)} "
                    f"and by {inspect.getfile(cls)}; rename one"
                )
            self.classes[name] = cls
        return [cls.card.name for cls in found]


def _methods_in(module: ModuleType) -> Iterator[type[Method]]:
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Method)
            and value.__module__ == module.__name__
            and isinstance(value.__dict__.get("card"), MethodCard)
        ):
            yield value


def method_identity(cls: type[Method]) -> str:
    """What names a method's code in keys: versions for ours, a hash for code from outside.

    The versions are those of the method and of the methods that it is a subclass of.
    """
    if not cls.__module__.startswith("compatbench."):
        return f"{cls.card.identity}:{hash_class(cls, until=Method)}"
    cards = [base.__dict__["card"] for base in cls.__mro__ if "card" in base.__dict__]
    return "+".join(f"{card.identity}.{card.version}" for card in cards)


def describe_import_error(error: Exception, path: Path) -> str:
    """One line for a file that failed to load: where, and what."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or path}:{error.lineno}: SyntaxError: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    line = f":{frames[-1].lineno}" if frames else ""
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{path}{line}: {type(error).__name__}: {text}"


@lru_cache(maxsize=1)
def builtin_methods() -> MethodRegistry:
    """The methods in ``methods/`` and in installed packages.

    Raises:
        CompatbenchError: two methods bear one name.
    """
    registry = MethodRegistry()
    for path in method_files():
        try:
            module = importlib.import_module(f"compatbench.methods.{path.stem}")
        except Exception as error:
            registry.broken[path.stem] = describe_import_error(error, path)
            continue
        registry._add_module(module)
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loaded = entry.load()
        except Exception as error:
            registry.broken[entry.name] = describe_import_error(error, Path(entry.value))
            continue
        registry._add_module(
            loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
        )
    return registry
