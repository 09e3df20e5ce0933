"""Load a Python file from anywhere.

Each file is loaded in a package of its own, so that two files may have neighbours of the same
name. In it, ``import helpers`` finds the ``helpers.py`` beside the file, also in a function that
runs later. ``sys.path`` does not change.
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
    """Run a Python file, anew each time, and the modules beside it that it imports.

    A file of compatbench itself is imported under its own name.
    """
    path = path.resolve()
    known = {f"compatbench.{kind}": content_folder(kind) for kind in CONTENT}
    known["compatbench"] = Path(compatbench.__path__[0]).resolve()
    for package, root in known.items():
        if path.is_relative_to(root):
            return _import_file(path, package, root)
    package = PLUGIN_PREFIX + sha256_bytes(str(path).encode())[:16]
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            del sys.modules[name]
    importlib.invalidate_caches()
    folders = import_folders(path)
    top = ModuleType(package)
    top.__path__ = [str(folder) for folder in folders]
    sys.modules[package] = top
    return _import_file(path, package, folders[0])


def _import_file(path: Path, package: str, root: Path) -> ModuleType:
    """Import a file by its dotted name in the package whose folder is ``root``."""
    parts = path.relative_to(root).with_suffix("").parts
    return importlib.import_module(".".join([package, *parts]).removesuffix(".__init__"))


class _Loader(SourceFileLoader):
    """A loader of ``load_file``'s packages that reads the source, never a compiled file.

    It is in ``sys.meta_path`` too, because it also finds these modules.
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
        """Run a module whose absolute imports first look in its own folders.

        An ordinary import cannot do this: ``sys.path`` is one for the whole process, so a
        ``helpers.py`` beside one file would also be found, or be cached, for every other file.
        The module gets its own ``__import__`` instead. Python looks it up in the module's
        ``__builtins__``, so imports in functions that run later use it too.
        """
        package = module.__name__.partition(".")[0]
        folders = list(sys.modules[package].__path__)

        def import_beside(name, globals=None, locals=None, fromlist=(), level=0):
            """Import like ``__import__``, but look for absolute names in the package first."""
            top = name.partition(".")[0]
            if level or not _is_local(top, folders):
                return builtins.__import__(name, globals, locals, fromlist, level)
            imported = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
            if fromlist:
                return imported
            return sys.modules[f"{package}.{top}"]

        vars(module)["__builtins__"] = vars(builtins) | {"__import__": import_beside}
        super().exec_module(module)


def _is_local(name: str, folders: Sequence[str]) -> bool:
    """Return True if a top-level name is a module or package in these folders.

    A folder without ``__init__.py`` is a package only if nothing that is installed has its name.
    Packages in ``site-packages`` are not local, though they are in the same folder.
    """
    if name == "compatbench":
        return False
    spec = PathFinder.find_spec(name, folders)
    if spec is None:
        return False
    if spec.submodule_search_locations is None:
        return True
    if spec.origin is None:
        return importlib.util.find_spec(name) is None
    return not Path(spec.origin).parents[1].name.endswith("-packages")


sys.meta_path.insert(0, _Loader)  # type: ignore[arg-type]
