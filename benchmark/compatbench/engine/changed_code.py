"""Whether code of the repository changed since its version was run, which keys cannot tell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from compatbench.files.atomic import holds, write_atomic
from compatbench.method.identity import hash_sources, method_identity

FOLDER = "code"  # of a store: a file for each version that was run, with the hash of its code


def find_changed_code(runs: Path, method: type[Any]) -> str:
    """One line about a method of the repository whose version was run in a store with other code.

    Empty where that is not so, or not known; results of code from outside are told by its hash.
    """
    path = _path(runs, method)
    if ":" in method_identity(method):
        return ""  # its key is the code
    if not path.is_file() or holds(path, hash_sources(method).encode()):
        return ""
    card = method.card
    return (
        f"method '{card.name}': its code changed since version {card.version} was run in {runs}; "
        "raise 'version' on its card or, if no number changes, say 'run --keep'"
    )


def remember_code(runs: Path, methods: Iterable[type[Any]]) -> None:
    """Remembers the code of methods that are run now."""
    for method in methods:
        path, sources = _path(runs, method), hash_sources(method).encode()
        if ":" not in method_identity(method) and not holds(path, sources):
            write_atomic(path, sources, sync=False)


def _path(runs: Path, method: type[Any]) -> Path:
    """With the name, since a renamed method has another card under its identity of before."""
    return runs / FOLDER / f"{method.card.name}@{method_identity(method)}.txt"
