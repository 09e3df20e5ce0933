"""What names a method's code in keys: versions for ours, a hash for code from outside."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from pathlib import Path

from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_bytes, sha256_file, sha256_json
from compatbench.method import Method
from compatbench.method.plugin import is_plugin, local_files


def method_identity(cls: type[Method]) -> str:
    """The part of a key that stands for a method's code.

    The versions of our methods that it is, or is a subclass of; for any other method before them
    a hash of its code and of the data files of its card, read from disk.

    Raises:
        CompatbenchError: code from outside that cannot be read whole: an import of a local
            module, or a data file of the card, that is not there.
    """
    ours = [base for base in _method_classes(cls) if _is_ours(base)]
    cards = [base.__dict__["card"] for base in ours if "card" in base.__dict__]
    versions = [f"{card.identity}.{card.version}" for card in cards]
    if _is_ours(cls):
        return "+".join(versions)
    code = []
    for base in _method_classes(cls):
        if not _is_ours(base):
            hashes = {file: hash_code(file) for file in _own_files(base)}
            hashes |= {file: sha256_file(file) for file in _data_files(base)}
            folder = class_file(base).parent
            code += sorted([os.path.relpath(file, folder), hash] for file, hash in hashes.items())
    return "+".join([f"{cls.card.identity}:{sha256_json(code)}", *versions])


def class_files(cls: type[Method]) -> set[Path]:
    """The Python files that make a method: its own, those of its bases, and what they import."""
    return {file for base in _method_classes(cls) for file in _own_files(base)}


def _own_files(cls: type[Method]) -> set[Path]:
    """Every file of an installed package; of a file that lies anywhere, what it imports there."""
    if cls.__module__.startswith("compatbench.method."):
        return {class_file(cls)}
    top = sys.modules[cls.__module__.partition(".")[0]]
    if hasattr(top, "__path__") and not (_is_ours(cls) or is_plugin(cls)):
        return {file.resolve() for place in top.__path__ for file in Path(place).rglob("*.py")}
    return local_files(class_file(cls))


def class_file(cls: type[Method]) -> Path:
    """The file that defines a method."""
    try:
        return Path(inspect.getfile(cls)).resolve()
    except (TypeError, OSError):
        raise CompatbenchError(
            f"class {cls.__name__} is defined in no file; write it to one, so that results of this "
            "code can be told from those of another"
        ) from None


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


def _method_classes(cls: type[Method]) -> list[type[Method]]:
    return [base for base in cls.__mro__ if issubclass(base, Method) and base is not Method]


def _is_ours(cls: type) -> bool:
    return cls.__module__.startswith("compatbench.")


def _data_files(cls: type[Method]) -> list[Path]:
    card = cls.__dict__.get("card")
    files = [class_file(cls).parent / name for name in (card.files if card else ())]
    for file in files:
        if not file.is_file():
            raise CompatbenchError(
                f"{class_file(cls)}: the card of '{cls.card.name}' names the file {file}, which "
                "does not exist"
            )
    return files
