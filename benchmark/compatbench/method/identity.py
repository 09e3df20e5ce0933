"""What stands for code in keys: versions for ours, a hash for code from outside."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from compatbench.errors import CompatbenchError
from compatbench.files.hashes import hash_file, sha256_bytes, sha256_json
from compatbench.files.project_folders import CONTENT, content_folder
from compatbench.method import Method
from compatbench.method.mistakes import PLUGIN_PREFIX
from compatbench.method.transfer import Transfer

_CONTENT = rf"compatbench\.({'|'.join(CONTENT)})\.(.+)"


def method_identity(cls: type[Any]) -> str:
    """The part of a key that stands for the code of a method, or of a transfer.

    The versions of our classes that it is, or is a subclass of; for any other class before them a
    hash of its code and of the data files of its card, read from disk.
    """
    root = next(root for root in (Method, Transfer) if issubclass(cls, root))
    bases = [base for base in cls.__mro__ if issubclass(base, root) and base is not root]
    cards = [vars(base)["card"] for base in bases if _is_ours(base) and "card" in vars(base)]
    versions = [f"{card.identity}.{card.version}" for card in cards]
    if _is_ours(cls):
        return "+".join(versions)
    code = [row for base in bases if not _is_ours(base) for row in _hash_files(base)]
    return "+".join([f"{cls.card.identity}:{sha256_json(code)}", *versions])


def _hash_files(cls: type[Any]) -> list[list[str]]:
    """Path from its own file, and hash, of every file that decides what a class does."""
    folder = class_file(cls).parent
    hashes = {file: hash_code(file) for file in _code_files(cls)}
    card = vars(cls).get("card")
    for file in [folder / name for name in (card.files if card else ())]:
        if not file.is_file():
            raise CompatbenchError(
                f"{class_file(cls)}: the card of '{cls.card.name}' names the file {file}, which "
                "does not exist"
            )
        hashes[file] = hash_file(file)
    return sorted([os.path.relpath(file, folder), value] for file, value in hashes.items())


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("compatbench.")


def plugin_file(cls: type[Any]) -> str | None:
    """The file, loaded from anywhere, that a class comes from; None for an installed one."""
    return str(class_file(cls)) if cls.__module__.startswith(PLUGIN_PREFIX) else None


def class_file(cls: type[Any]) -> Path:
    """The file that defines a class."""
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (TypeError, OSError):
        raise CompatbenchError(
            f"class {cls.__name__} is defined in no file; write it to one, so that results of this "
            "code can be told from those of another"
        ) from None


def _code_files(cls: type[Any]) -> set[Path]:
    """Every file of an installed package; of a file that lies anywhere, ``local_files``."""
    top = sys.modules[cls.__module__.partition(".")[0]]
    if hasattr(top, "__path__") and not plugin_file(cls):
        return {file.resolve() for place in top.__path__ for file in Path(place).rglob("*.py")}
    return local_files(class_file(cls))


def local_files(path: Path) -> set[Path]:
    """A file, the packages that hold it, and every local module that they import in turn.

    They are found without running them. Files of compatbench's own content count as local.
    """
    importlib.invalidate_caches()
    path = path.resolve()
    folders = import_folders(path)
    files: set[Path] = set()
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file not in files:
            files.add(file)
            package = file.parents[file.name == "__init__.py"] / "__init__.py"
            waiting += [package] if package.is_file() else []
            waiting += _imported_files(file, folders) if file.suffix == ".py" else []
    return files


def _imported_files(file: Path, folders: Sequence[str]) -> Iterator[Path]:
    """The local files that a file's import statements lead to, as Python would find them.

    A statement may stand in a function, or in a ``try``: a module that is not there counts once
    it is there.
    """
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return
    imports = [
        (0, a.name, []) for node in nodes if isinstance(node, ast.Import) for a in node.names
    ]
    imports += [
        (node.level, node.module or "", [alias.name for alias in node.names])
        for node in nodes
        if isinstance(node, ast.ImportFrom)
    ]
    for level, module, names in imports:
        places = list(folders)
        if level:
            places = [str(file.parents[level - 1])]
        elif content := re.fullmatch(_CONTENT, module):
            places, module = [str(content_folder(content[1]))], content[2]
        elif find_local(module.partition(".")[0], folders) is None:
            continue
        for part in filter(None, module.split(".")):
            spec = PathFinder.find_spec(part, places)
            yield from _origin(spec)
            places = list(spec.submodule_search_locations or ()) if spec else []
        for name in names:
            yield from _origin(PathFinder.find_spec(name, places))
            if name == "*":
                yield from (path for place in places for path in Path(place).glob("*.py"))


def _origin(spec: ModuleSpec | None) -> list[Path]:
    return [Path(spec.origin)] if spec and spec.origin else []


def import_folders(path: Path) -> list[str]:
    """Where a file finds local modules: above its outermost package, and beside it."""
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


def hash_code(path: Path) -> str:
    """The SHA-256 of a file's syntax tree, without comments, docstrings and layout.

    Of a file that is not Python: of its bytes.
    """
    content = path.read_bytes()
    try:
        return sha256_bytes(repr(_plain(ast.parse(content))).encode())
    except (SyntaxError, ValueError):
        return sha256_bytes(content)


def _plain(node: object) -> object:
    """A syntax tree as nested lists; ``ast.dump`` differs between versions of Python."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name != "kind"}
    documented = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:] or [ast.Pass()]
    # None is a value where it is a constant.
    kept = [[k, _plain(v)] for k, v in fields.items() if k == "value" or v not in (None, [])]
    return [type(node).__name__, *kept]
