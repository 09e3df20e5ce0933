"""Name the code behind a number: our own by its versions, code from outside by its files."""

from __future__ import annotations

import inspect
import os
import sys
from importlib.machinery import PathFinder
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

from compatbench.errors import CompatbenchError
from compatbench.files.hashes import hash_file, sha256_json
from compatbench.method import Method
from compatbench.method.mistakes import PLUGIN_PREFIX, explain_import
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
    try:
        neighbours, named = find_local_modules(file)
    except (SyntaxError, ImportError, ValueError, CompatbenchError) as error:
        raise CompatbenchError(explain_import(error, file)) from None
    return {*neighbours, *named.values()}


class _LocalFinder(ModuleFinder):
    """A finder that looks into the folders of one file, and nowhere else."""

    def find_module(self, name: str, path: Any, parent: Any = None) -> Any:
        """Find a module; ``path`` is that of its package ``parent``, if it is in one.

        The standard finder fails for a folder without ``__init__.py``. Here it is skipped, since
        it seldom has code: a method's file lies beside ``data`` and ``results``.
        """
        spec = PathFinder.find_spec(name, path or self.path)
        if spec is not None and spec.loader is None:
            [folder, *_] = spec.submodule_search_locations or [name]
            if parent is not None and any(Path(folder).glob("*.py")):
                raise CompatbenchError(f"to import from {folder}, put an '__init__.py' there")
            raise ImportError(name)
        return super().find_module(name, path, parent)


def find_local_modules(path: Path) -> tuple[set[Path], dict[str, Path]]:
    """Return the files that a file imports from its own folders, directly or through others.

    They are found by the standard library's reader of compiled code, which runs nothing. An import
    counts wherever it stands, also inside a function.

    Returns:
        The file itself, the ``__init__.py`` of the packages that hold it, and all that is
        imported relatively. Then what is imported by an absolute name, by this name.

    Raises:
        SyntaxError, ValueError: the file cannot be compiled.
        ImportError: a relative import leads out of the outermost package.
        CompatbenchError: a folder with code has no ``__init__.py``.
    """
    folders = [str(folder) for folder in import_folders(path)]
    # The harness counts by its version, also where it lies beside the file.
    finder = _LocalFinder(path=folders, excludes=["compatbench", "__main__"])
    top: Any = finder.add_module(PLUGIN_PREFIX)
    top.__path__ = folders[:1]
    finder.import_hook(f"{PLUGIN_PREFIX}.{module_name(path)}")
    modules: dict[str, Any] = finder.modules
    neighbours: set[Path] = set()
    named: dict[str, Path] = {}
    for name, module in modules.items():
        is_built_in = module.__file__ is None  # such as time, which has no file
        if module is top or is_built_in:
            continue
        file = Path(module.__file__).resolve()
        if name.startswith(f"{PLUGIN_PREFIX}."):
            neighbours.add(file)
        else:
            named[name] = file
    return neighbours, named


def import_folders(path: Path) -> list[Path]:
    """Return the folder above the outermost package that holds a file, and the file's own."""
    root = path.parent
    while (root / "__init__.py").is_file():
        root = root.parent
    return list(dict.fromkeys([root, path.parent]))


def module_name(path: Path) -> str:
    """Return the dotted name of a file, from its outermost package on."""
    parts = path.relative_to(import_folders(path)[0]).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")
