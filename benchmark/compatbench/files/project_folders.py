"""Where the method files and the cards are, found without loading any of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from pathlib import Path

from compatbench.errors import CompatbenchError

TASKS_VARIABLE = "COMPATBENCH_TASKS"
_others: dict[str, Path] = {}  # in place of what is installed


def tasks_folder() -> Path:
    """The folder of the cards: ``$COMPATBENCH_TASKS``, or the one that is installed."""
    if other := other_folder("tasks"):
        return other
    if not (given := os.environ.get(TASKS_VARIABLE)):
        return installed_folder("tasks")
    folder = Path(given).expanduser().resolve()
    if not any(folder.glob("*.yaml")):
        what = f"there are no task cards in {folder}; name a folder of cards, or unset it"
        raise CompatbenchError(f"{TASKS_VARIABLE}: {what}")
    return folder


def methods_folder() -> Path:
    """The folder of the method files."""
    return other_folder("methods") or installed_folder("methods")


def other_folder(name: str) -> Path | None:
    """The folder that stands in the place of an installed one, if there is any."""
    return _others.get(name)


def use_folders(**folders: Path) -> None:
    """Puts folders, ``methods`` and ``tasks``, in the place of those that are installed."""
    _others.update(folders)


@contextmanager
def in_clone(root: Path) -> Iterator[None]:
    """With the methods, cards and published figures of a clone, whatever is installed."""
    folders = {name: root.resolve() / name for name in ("methods", "tasks")}
    for folder in folders.values():
        if folder.is_symlink() or not folder.is_dir():
            raise CompatbenchError(f"{folder} is no folder; give a clone of the project")
    if (published := root.resolve() / "results" / "published").is_dir():
        folders["published"] = published
    before = dict(_others)
    _others.update(folders)
    try:
        yield
    finally:
        _others.clear()
        _others.update(before)


@cache
def installed_folder(name: str) -> Path:
    """The folder ``methods`` or ``tasks`` of this installation."""
    return Path(str(resources.files(f"compatbench.{name}"))).resolve()


def method_files() -> list[Path]:
    """The files of ``methods/``, one method adapter each."""
    return sorted(methods_folder().glob("[!_]*.py"))
