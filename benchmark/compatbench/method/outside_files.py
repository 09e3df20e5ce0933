"""Loads a Python file from anywhere.

It is loaded in a package of its own, so that two files may have neighbours of one name. In it,
``import helpers`` finds the ``helpers.py`` beside the file, also in a function that runs later.
``sys.path`` is left alone.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

import compatbench
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import CONTENT, content_folder
from compatbench.method.identity import import_folders
from compatbench.method.mistakes import PLUGIN_PREFIX


def load_file(path: Path) -> ModuleType:
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
        top.__path__ = [str(folder) for folder in import_folders(path)]
        known[package] = Path(top.__path__[0])
    parts = path.relative_to(known[package]).with_suffix("").parts
    return importlib.import_module(".".join([package, *parts]).removesuffix(".__init__"))


class _Loader(SourceFileLoader):
    """Runs the modules of ``load_file``'s packages from their source, never from a compiled file.

    It stands in ``sys.meta_path`` too, as what finds them.
    """

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not name.startswith(PLUGIN_PREFIX):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = cls(name, spec.loader.path)
        return spec

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        folders = list(sys.modules[package].__path__)

        def import_beside(name, globals=None, locals=None, fromlist=(), level=0):
            """``__import__`` that first looks for absolute names in the module's package."""
            top = name.partition(".")[0]
            if level or not _is_local(top, folders):
                return builtins.__import__(name, globals, locals, fromlist, level)
            module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
            return module if fromlist else sys.modules[f"{package}.{top}"]

        vars(module)["__builtins__"] = vars(builtins) | {"__import__": import_beside}
        super().exec_module(module)


def _is_local(name: str, folders: Sequence[str]) -> bool:
    """Return True if a top-level name is a module or package in these folders.

    A folder without ``__init__.py`` is one only if nothing that is installed has its name.
    Packages in ``site-packages`` are not local, though they lie side by side.
    """
    spec = None if name == "compatbench" else PathFinder.find_spec(name, folders)
    if spec is None:
        return False
    if spec.submodule_search_locations is None:
        return True
    if spec.origin is None:
        return importlib.util.find_spec(name) is None
    return not Path(spec.origin).parents[1].name.endswith("-packages")


sys.meta_path.insert(0, _Loader)  # type: ignore[arg-type]
