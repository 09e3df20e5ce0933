"""Name the code behind a number: our own by its versions, code from outside by its files."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from compatbench.errors import CompatbenchError
from compatbench.files.hashes import hash_file, sha256_json
from compatbench.method import Method
from compatbench.method.mistakes import PLUGIN_PREFIX
from compatbench.method.transfer import Transfer


def method_identity(cls: type[Any]) -> str:
    """Return the part of a key that stands for the code of a method, or of a transfer.

    It has the versions of our classes among the class and its bases. For a class from outside, a
    hash of its files comes first: its code, and the data files that its card names.
    """
    root = Method if issubclass(cls, Method) else Transfer
    versions: list[str] = []
    outside: list[list[str]] = []
    for base in cls.__mro__:
        if base is root or not issubclass(base, root):
            continue
        if not _is_ours(base):
            outside += _hash_files(base)
        elif "card" in vars(base):
            card = vars(base)["card"]
            versions.append(f"{card.identity}.{card.version}")
    if outside:
        versions.insert(0, f"{cls.card.identity}:{sha256_json(outside)}")
    return "+".join(versions)


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("compatbench.")


def _hash_files(cls: type[Any]) -> list[list[str]]:
    """Return the path, from the class's own file, and the hash of every file behind a class."""
    own = class_file(cls)
    files = _code_files(cls)
    if "card" in vars(cls):
        for name in cls.card.files:
            file = own.parent / name
            if not file.is_file():
                raise CompatbenchError(
                    f"{own}: the card of '{cls.card.name}' names the file {file}, which does not "
                    "exist"
                )
            files.add(file)
    return sorted([os.path.relpath(file, own.parent), hash_file(file)] for file in files)


def plugin_file(cls: type[Any]) -> str | None:
    """Return the file, loaded from anywhere, that a class comes from; None if it is installed."""
    return str(class_file(cls)) if cls.__module__.startswith(PLUGIN_PREFIX) else None


def class_file(cls: type[Any]) -> Path:
    """Return the file that defines a class."""
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (TypeError, OSError):
        raise CompatbenchError(
            f"class {cls.__name__} is defined in no file; write it to one, so that results of this "
            "code can be told from those of another"
        ) from None


def _code_files(cls: type[Any]) -> set[Path]:
    """Return every Python file of an installed package; of a file anywhere, its local files."""
    file = class_file(cls)
    top = sys.modules[cls.__module__.partition(".")[0]]
    if hasattr(top, "__path__") and not plugin_file(cls):
        folders = [Path(folder) for folder in top.__path__]
        return {path.resolve() for folder in folders for path in folder.rglob("*.py")}
    if any(part.endswith("-packages") for part in file.parts):
        return {file}  # its neighbours are other installed packages
    return _local_files(file)


def _local_files(path: Path) -> set[Path]:
    """Return a file, the packages that hold it, and the local modules that these import in turn.

    The modules are found without running them. An import counts wherever it stands, also inside a
    function.
    """
    folders = import_folders(path)
    name = ".".join(path.relative_to(folders[0]).with_suffix("").parts)
    waiting = [path, *_files_of_import(name, folders[0])]
    files: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file in files:
            continue
        files.add(file)
        for name, folder in _list_imports(file, folders):
            waiting += _files_of_import(name, folder)
    return files


def import_folders(path: Path) -> list[Path]:
    """Return where a file finds local modules: above its outermost package, and beside it."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return list(dict.fromkeys([root, path.parent]))


def _list_imports(file: Path, folders: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the dotted names that a file imports, each with a folder that it may be found in.

    ``from a import b`` gives ``a.b``: whether b is a module shows when its file is looked for.
    """
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # whoever imports it is told
    for node in ast.walk(tree):
        places = folders
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = f"{node.module}." if node.module else ""
            names = [start + alias.name for alias in node.names]
            if node.level:
                places = [file.parents[node.level - 1]]
        for name in names:
            # The harness counts by its version, also where it lies beside the file.
            if name.partition(".")[0] != "compatbench":
                for place in places:
                    yield name, place


def _files_of_import(name: str, folder: Path) -> list[Path]:
    """Return the files that run when a dotted name is imported from a folder."""
    files: list[Path] = []
    for part in name.split("."):
        if part == "*":
            files += folder.glob("*.py")
        files += [folder / f"{part}.py", folder / part / "__init__.py"]
        folder = folder / part
    return [file for file in files if file.is_file()]
