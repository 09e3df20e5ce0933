"""Hashes of code that ignore layout and words, so that only a change of behaviour counts."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from compatbench.files.hashes import sha256_bytes, sha256_file
from compatbench.files.project_folders import methods_folder

METHODS = "compatbench.methods."


@cache
def hash_code(path: Path) -> str:
    """The SHA-256 of a Python file's syntax tree, without comments, docstrings and layout."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return sha256_file(path)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[:1] = [] if len(body) > 1 else [ast.Pass()]
    return sha256_bytes(repr(_plain(tree)).encode())


def _plain(node: object) -> object:
    """A syntax tree as nested lists, alike in all versions of Python.

    ``ast.dump`` and ``ast.unparse`` are not: new versions add empty fields and quote
    strings otherwise.
    """
    if isinstance(node, ast.AST):
        fields = [(name, value) for name, value in ast.iter_fields(node) if name != "kind"]
        kept = [[name, _plain(value)] for name, value in fields if value not in (None, [])]
        # None is a value where it is a constant.
        return [type(node).__name__, *kept, *(["None"] if _is_none(node) else [])]
    if isinstance(node, list):
        return [_plain(item) for item in node]
    return repr(node)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def hash_files(paths: Iterable[Path]) -> str:
    """One hash for a group of Python files, independent of where they lie."""
    return sha256_bytes(
        *(
            f"{path.name}:{hash_code(path)}\n".encode()
            for path in sorted(paths, key=lambda p: p.name)
        )
    )


def hash_class(cls: type, until: type) -> str:
    """One hash for the files of ``class_files``."""
    return hash_files(class_files(cls, until))


def class_files(cls: type, until: type) -> set[Path]:
    """The files of a class, of its bases below ``until``, and of what they import.

    What counts of the imports is the methods' own code: relative imports, and modules of
    ``compatbench.methods`` by their full name.
    """
    files: set[Path] = set()
    waiting = [
        Path(inspect.getfile(base)).resolve()
        for base in cls.__mro__
        if issubclass(base, until) and base is not until
    ]
    while waiting:
        path = waiting.pop()
        if path not in files:
            files.add(path)
            waiting += imported_methods(path)
    return files


@cache
def imported_methods(path: Path) -> tuple[Path, ...]:
    """The method files that a Python file imports."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes())))
    except SyntaxError:
        return ()
    found = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            package = ["."] * node.level
        elif isinstance(node, ast.Import):
            names, package = [alias.name for alias in node.names], []
        else:
            continue
        for name in names:
            if package == ["."]:
                found.append(path.parent / f"{name}.py")
            elif not package and name.startswith(METHODS):
                found.append(methods_folder() / f"{name.removeprefix(METHODS)}.py")
    return tuple(file for file in found if file.is_file())
