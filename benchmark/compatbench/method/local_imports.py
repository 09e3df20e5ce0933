"""What a Python file imports from its own folder or package, found without running it."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import methods_folder

METHODS = "compatbench.methods."


def import_folders(path: Path) -> list[str]:
    """Where a file finds local modules: above the outermost package that holds it, and beside it.

    They are one folder if the file is in no package.
    """
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return list(dict.fromkeys([str(root), str(path.parent)]))


def find_local(name: str, folders: Sequence[str]) -> ModuleSpec | None:
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

    Method files of compatbench count as local.

    Raises:
        CompatbenchError: a file that is not Python, or an import of a local module that is not
            there.
    """
    importlib.invalidate_caches()
    folders = import_folders(path)
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
        elif module.startswith(METHODS):
            places, module = [str(methods_folder())], module.removeprefix(METHODS)
        elif find_local(module.partition(".")[0], folders) is None:
            continue
        for part in filter(None, module.split(".")):
            spec = PathFinder.find_spec(part, places)
            if spec is None:
                raise missing
            places, has_code = list(spec.submodule_search_locations or ()), bool(spec.origin)
            yield from _origin(spec)
        for name in names:
            spec = PathFinder.find_spec(name, places)
            if spec is None and not has_code and name != "*":
                raise missing
            yield from _origin(spec)
            if name == "*":
                yield from (path for place in places for path in Path(place).glob("*.py"))


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
