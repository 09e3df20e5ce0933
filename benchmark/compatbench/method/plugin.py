"""Method files from anywhere, and the modules beside them: what they import, and how they run.

Every file is loaded in a package of its own, so that two of them may have neighbours of one name.
In it, ``import helpers`` finds the ``helpers.py`` beside the file, also in a function that runs
later. ``sys.path`` is left alone.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

import compatbench
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import methods_folder

_PREFIX = "compatbench_plugin_"
_METHODS = "compatbench.methods."


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
    top.__path__ = _import_folders(path)
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
        if level or _find_local(top, folders) is None:
            return builtins.__import__(name, globals, locals, fromlist, level)
        module = builtins.__import__(f"{package}.{name}", globals, locals, fromlist, 0)
        return module if fromlist else sys.modules[f"{package}.{top}"]

    return find


sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]


def _import_folders(path: Path) -> list[str]:
    """Where a file finds local modules: above its outermost package, and beside it."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return list(dict.fromkeys([str(root), str(path.parent)]))


def _find_local(name: str, folders: Sequence[str]) -> ModuleSpec | None:
    """The local module or package of a top-level name; None if it is installed, or nowhere.

    A folder without ``__init__.py`` counts only if nothing else has its name. Packages in
    ``site-packages`` are not local, though they lie side by side.
    """
    spec = None if name == "compatbench" else PathFinder.find_spec(name, folders)
    if spec is None or spec.submodule_search_locations is None:
        return spec
    if spec.origin is None:
        return None if importlib.util.find_spec(name) else spec
    return None if Path(spec.origin).parents[1].name.endswith("-packages") else spec


def local_files(path: Path) -> set[Path]:
    """A file, the packages that hold it, and every local module that they import in turn.

    They are found without running them. Method files of compatbench count as local.

    Raises:
        CompatbenchError: a file that is not Python, or an import of a local module that is not
            there.
    """
    importlib.invalidate_caches()
    folders = _import_folders(path)
    found: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            package = file.parents[file.name == "__init__.py"] / "__init__.py"
            waiting += [package] if package.is_file() else []
            waiting += _imported_files(file, folders) if file.suffix == ".py" else []
    return found


def _imported_files(file: Path, folders: Sequence[str]) -> Iterator[Path]:
    for level, module, names in _imports(file):
        statement = f"from {'.' * level}{module} import {', '.join(names)}" if names else module
        missing = CompatbenchError(f"{file}: '{statement}' leads nowhere; there is no such module")
        # Where the next part of the name is looked for, and whether it may be no module at all.
        places, has_code = list(folders), False
        if level:
            package = file.parents[level - 1]
            if level > 1 and not package.is_relative_to(folders[0]):
                raise missing
            places, has_code = [str(package)], (package / "__init__.py").is_file()
        elif module.startswith(_METHODS):
            places, module = [str(methods_folder())], module.removeprefix(_METHODS)
        elif _find_local(module.partition(".")[0], folders) is None:
            continue
        for part in filter(None, module.split(".")):
            spec = PathFinder.find_spec(part, places)
            if spec is None:
                raise missing
            places, has_code = list(spec.submodule_search_locations or ()), bool(spec.origin)
            yield from _origin(spec)
        for name in names:
            spec = PathFinder.find_spec(name, places)
            yield from _origin(spec)
            if name == "*":
                yield from (path for place in places for path in Path(place).glob("*.py"))
            elif spec is None and not has_code:
                raise missing


def _imports(file: Path) -> Iterator[tuple[int, str, Sequence[str]]]:
    """Level, module and names of every import, as ``ast.ImportFrom`` has them."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise CompatbenchError(f"{file}:{error.lineno}: SyntaxError: {error.msg}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name, ()) for alias in node.names)


def _origin(spec: ModuleSpec | None) -> Iterator[Path]:
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin)
