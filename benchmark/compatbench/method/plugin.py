"""Loads a method file from anywhere, together with the modules beside it.

Every file is loaded in a package of its own, so that two of them may have neighbours of one name.
In it, ``import helpers`` finds the ``helpers.py`` beside the file, also in a function that runs
later. ``sys.path`` is left alone.
"""

from __future__ import annotations

import builtins
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

import compatbench
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import methods_folder
from compatbench.method.local_imports import find_local, import_folders

_PREFIX = "compatbench_plugin_"


def is_plugin(cls: type) -> bool:
    """Whether a class comes from a file that ``load_file`` loaded, or from a module beside it."""
    return cls.__module__.startswith(_PREFIX)


def plain_names(text: str) -> str:
    """A text with the names of modules as their files have them."""
    return re.sub(rf"{_PREFIX}[0-9a-f]+\.", "", text)


def load_file(path: Path) -> ModuleType:
    """Runs a Python file, anew each time, and the modules beside it that it imports.

    A file of compatbench itself is imported under its own name.
    """
    path = path.resolve()
    harness = Path(compatbench.__path__[0]).resolve()
    for package, folder in (("compatbench.methods", methods_folder()), ("compatbench", harness)):
        if path.is_relative_to(folder):
            parts = path.relative_to(folder).with_suffix("").parts
            return importlib.import_module(".".join([package, *parts]))
    package = _PREFIX + sha256_bytes(str(path).encode())[:16]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    importlib.invalidate_caches()
    top = sys.modules[package] = ModuleType(package)
    top.__path__ = import_folders(path)
    parts = path.parent.relative_to(top.__path__[0]).parts
    if path.stem != "__init__":
        parts += (path.stem.replace(".", "_"),)
    name = ".".join([package, *parts])
    importlib.import_module(name.rpartition(".")[0])
    if name not in sys.modules:  # the package that holds the file may have imported it
        loader = _Loader(name, str(path))
        spec = spec_from_file_location(name, path, loader=loader)
        assert spec is not None
        sys.modules[name] = module_from_spec(spec)
        loader.exec_module(sys.modules[name])
    return sys.modules[name]


class _Loader(SourceFileLoader):
    """Runs a module from its source, never from a compiled file, which may be older."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        own = {"__import__": _import_beside(module.__name__.partition(".")[0])}
        vars(module)["__builtins__"] = vars(builtins) | own
        super().exec_module(module)


class _Finder:
    """Gives ``_Loader`` to all modules of the packages that ``load_file`` makes."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(_PREFIX) else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


def _import_beside(package: str) -> Callable[..., ModuleType]:
    """``__import__`` for the modules of a package: absolute names are first looked for in it."""
    folders = list(sys.modules[package].__path__)

    def find(name, globals=None, locals=None, fromlist=(), level=0):
        top = name.partition(".")[0]
        if level or find_local(top, folders) is None:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[f"{package}.{top}"]

    return find


sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
