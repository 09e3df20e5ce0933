"""Finds plug-ins: among ours, in a file anywhere, in an installed package; methods first of all.

A file from anywhere is loaded in a package of its own, so that two of them may have neighbours of
one name. In it, ``import helpers`` finds the ``helpers.py`` beside the file, also in a function
that runs later. ``sys.path`` is left alone.
"""

from __future__ import annotations

import builtins
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, ClassVar, Generic, TypeGuard, TypeVar

import compatbench
from compatbench.data.cards import select_names, unknown_name
from compatbench.data.cards.names import NAME
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import CONTENT, content_files, content_folder
from compatbench.method import Method, MethodCard
from compatbench.method.identity import (
    PLUGIN_PREFIX,
    class_file,
    find_local,
    import_folders,
    method_identity,
    plugin_file,
)

T = TypeVar("T", bound=Any)


@dataclass
class Registry(Generic[T]):
    """The plug-in classes of one kind by name, and the files that could not be loaded.

    A broken file is remembered with its error and harms only those who ask for it.
    """

    kind: ClassVar[str]  # what people call such a plug-in
    root: ClassVar[type]  # what every such class is a subclass of
    # What each has of its own: its card, or its name alone.
    mark: ClassVar[str] = "card"
    mark_type: ClassVar[type]

    classes: dict[str, type[T]] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """All names in order."""
        return sorted(self.classes)

    def get(self, name: str) -> type[T]:
        """The class of this name, if there is one and its file could be loaded."""
        if name in self.broken:
            raise CompatbenchError(self.broken[name])
        if name not in self.classes:
            raise CompatbenchError(unknown_name(name, self.names(), self.kind))
        return self.classes[name]

    def select(self, wanted: str, also: Sequence[str] = ()) -> list[str]:
        """The names that a selection means, ``also`` among them; ``.py`` files are loaded."""
        names: list[str] = []
        for part in filter(None, (part.strip() for part in wanted.split(","))):
            if part.endswith(".py"):
                names += self.add_file(Path(part))
            elif part in self.broken:
                raise CompatbenchError(self.broken[part])
            else:
                names.append(part)
        return select_names(names, [*self.names(), *also], self.kind)

    def add_file(self, path: Path) -> list[str]:
        """Loads a file, running its code, and returns the names it defines."""
        if not path.is_file():
            raise CompatbenchError(f"{self.kind} file {path} does not exist")
        return self.add(path, partial(_load_file, path))

    def add(self, path: Path, load: Callable[[], object]) -> list[str]:
        """Adds the plug-ins of what is loaded from a path, and returns their names."""
        try:
            loaded = load()
        except Exception as error:
            raise CompatbenchError(_describe_import_error(error, path)) from None
        if not (names := self.put_all(loaded, path)):
            what = f"a {self.root.__name__} subclass with a {self.mark}"
            raise CompatbenchError(f"{path} defines no {self.kind}: {what}")
        return names

    def put_all(self, loaded: object, path: Path | None = None) -> list[str]:
        """Adds a class itself, those that a module defines, or a package has of its modules."""
        many = isinstance(loaded, ModuleType)
        found = list(filter(self._is_marked, vars(loaded).values() if many else [loaded]))
        if many:
            start = f"{loaded.__name__}."
            found = [cls for cls in found if f"{cls.__module__}.".startswith(start)]
        for cls in found:
            self.put(cls, file := class_file(cls), path or file)
        return list(map(self._name_of, found))

    def add_all(self, found: Iterable[tuple[str, Path, Callable[[], object]]]) -> None:
        """Adds what each loads, remembering what is broken by its name."""
        entries = entry_points(group=f"compatbench.{self.kind}s")
        installed = ((one.name, Path(one.value), one.load) for one in entries)
        for name, path, load in (*found, *installed):
            try:
                self.add(path, load)
            except CompatbenchError as error:
                self.broken[name] = str(error)

    def put(self, cls: type[T], file: Path, path: Path) -> None:
        """Adds a class that is in a file, and was loaded from a path."""
        name = _check_name(self._name_of(cls), path, self.kind)
        if name in self.classes and (other := self.file_of(name)) != file:
            raise CompatbenchError(
                f"{self.kind} name '{name}' is taken twice: by {other} and by {file}; rename one"
            )
        self.classes[name] = cls

    def identify(self, name: str) -> tuple[str, str | None]:
        """What stands for a plug-in's code in keys, and its file if that is not among ours."""
        cls = self.get(name)
        return method_identity(cls), plugin_file(cls)

    def file_of(self, name: str) -> Path:
        """The file that defines a plug-in."""
        return class_file(self.classes[name])

    def _name_of(self, cls: type[T]) -> str:
        own = getattr(cls, self.mark)
        return own if isinstance(own, str) else own.name

    def _is_marked(self, value: object) -> TypeGuard[type[T]]:
        return (
            isinstance(value, type)
            and issubclass(value, self.root)
            and isinstance(value.__dict__.get(self.mark), self.mark_type)
        )


class MethodRegistry(Registry[Method]):
    """The method classes by name, and the files that could not be loaded."""

    kind = "method"
    root = Method
    mark_type = MethodCard

    def names(self) -> list[str]:
        """All names: zero-shot first, as the floor of every comparison, then by name.

        What else learns nothing, but is given more, is between them.
        """

        def place(name: str) -> tuple[bool, int, str]:
            card = self.classes[name].card
            return card.learns, 0 if card.learns else len(card.needs), name

        return sorted(self.classes, key=place)


def _check_name(name: object, path: Path, kind: str) -> str:
    """Refuses a name that could be no file's, or that a selection reads as something else."""
    good = isinstance(name, str) and re.fullmatch(NAME, name) and name != "all"
    if good and not str(name).endswith((".py", ".cost")):
        return str(name)
    rule = "letters, digits, '_', '.' and '-', a letter or digit first, 100 at most"
    raise CompatbenchError(
        f"{path}: a {kind} cannot be named {str(name)[:100]!r}: a name consists of {rule}; 'all' "
        "and names that end in '.py' or '.cost' mean something else"
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
    text = re.sub(rf"{PLUGIN_PREFIX}[0-9a-f]+\.", "", str(error)).partition("\n")[0]
    return f"{path}{line}: {type(error).__name__}: {text}"


def _load_file(path: Path) -> ModuleType:
    """Runs a Python file, anew each time, and the modules beside it that it imports.

    A file of compatbench itself is imported under its own name.
    """
    path = path.resolve()
    harness = Path(compatbench.__path__[0]).resolve()
    known = {f"compatbench.{kind}": content_folder(kind) for kind in CONTENT}
    known["compatbench"] = harness
    package = next((name for name, folder in known.items() if path.is_relative_to(folder)), None)
    if package is None:
        package = PLUGIN_PREFIX + sha256_bytes(str(path).encode())[:16]
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            del sys.modules[name]
        importlib.invalidate_caches()
        top = sys.modules[package] = ModuleType(package)
        top.__path__ = import_folders(path)
        known[package] = Path(top.__path__[0])
    parts = path.relative_to(known[package]).with_suffix("").parts
    return importlib.import_module(".".join([package, *parts]).removesuffix(".__init__"))


class FromSource(SourceFileLoader):
    """Runs modules from their source, never from a compiled file, which may be older.

    It stands in ``sys.meta_path`` too, as what finds modules whose names begin with ``prefix``.
    """

    prefix: ClassVar[str]

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(cls.prefix) else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = cls(name, spec.loader.path)
        return spec

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class _Loader(FromSource):
    """Runs the modules of ``_load_file``'s packages."""

    prefix = PLUGIN_PREFIX

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        folders = list(sys.modules[package].__path__)

        def import_beside(name, globals=None, locals=None, fromlist=(), level=0):
            """``__import__`` that first looks for absolute names in the module's package."""
            top = name.partition(".")[0]
            if level or find_local(top, folders) is None:
                return builtins.__import__(name, globals, locals, fromlist, level)
            module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
            return module if fromlist else sys.modules[f"{package}.{top}"]

        vars(module)["__builtins__"] = vars(builtins) | {"__import__": import_beside}
        super().exec_module(module)


sys.meta_path.insert(0, _Loader)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def builtin_methods() -> MethodRegistry:
    """The methods in ``methods/`` and in installed packages.

    An entry point names a method, or a module or package with methods.
    """
    registry = MethodRegistry()
    registry.add_all(
        (path.stem, path, partial(importlib.import_module, f"compatbench.methods.{path.stem}"))
        for path in content_files("methods")
    )
    return registry
