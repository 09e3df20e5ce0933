"""Load a Python file from anywhere.

A file imports the modules beside it relatively: ``from . import helpers``, or ``from .helpers
import name``. Each file is loaded in a package of its own, so two files may have neighbours of the
same name. An absolute import finds what is installed, as everywhere in Python; ``sys.path`` does
not change.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import compatbench
from compatbench.errors import CompatbenchError
from compatbench.files.hashes import sha256_bytes
from compatbench.files.project_folders import CONTENT, content_folder
from compatbench.method.identity import find_local_modules, import_folders, module_name
from compatbench.method.mistakes import PLUGIN_PREFIX


def load_file(path: Path) -> ModuleType:
    """Run a Python file, anew each time, and the modules beside it that it imports.

    A file of compatbench itself is imported under its own name.

    Raises:
        CompatbenchError: a neighbour is imported by an absolute name.
        Exception: whatever the file raises.
    """
    path = path.resolve()
    known = {f"compatbench.{kind}": content_folder(kind) for kind in CONTENT}
    known["compatbench"] = Path(compatbench.__path__[0]).resolve()
    for package, root in known.items():
        if path.is_relative_to(root):
            parts = path.relative_to(root).with_suffix("").parts
            return importlib.import_module(".".join([package, *parts]).removesuffix(".__init__"))
    _check_absolute_imports(path)
    package = PLUGIN_PREFIX + sha256_bytes(str(path).encode())[:16]
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            del sys.modules[name]
    importlib.invalidate_caches()
    top = ModuleType(package)
    top.__path__ = [str(import_folders(path)[0])]
    sys.modules[package] = top
    # Python takes a compiled file for current if the source has the same size and second. A script
    # that changes one digit and runs again would run the old code, with the key of the new one.
    writes_nothing = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        return importlib.import_module(f"{package}.{module_name(path)}")
    finally:
        sys.dont_write_bytecode = writes_nothing


def _check_absolute_imports(path: Path) -> None:
    """Raise an error if an absolute import has the name of a neighbour and does not find it."""
    _, named = find_local_modules(path)
    for name, file in named.items():
        if "." in name:
            continue  # its package is in the list as well
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != file:
            raise CompatbenchError(
                f"'import {name}' does not find {file}; write 'from . import {name}', or rename it"
            )
