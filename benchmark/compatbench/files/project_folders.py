"""Where the method files and the cards are, found without loading any of them."""

from __future__ import annotations

import os
from functools import cache
from importlib import resources
from pathlib import Path

from compatbench.errors import CompatbenchError

TASKS_VARIABLE = "COMPATBENCH_TASKS"


def tasks_folder() -> Path:
    """The folder of the cards: ``$COMPATBENCH_TASKS``, or the one that is installed."""
    if not (given := os.environ.get(TASKS_VARIABLE)):
        return _installed("tasks")
    folder = Path(given).expanduser().resolve()
    if not any(folder.glob("*.yaml")):
        what = f"there are no task cards in {folder}; name a folder of cards, or unset it"
        raise CompatbenchError(f"{TASKS_VARIABLE}: {what}")
    return folder


def methods_folder() -> Path:
    """The folder of the method files."""
    return _installed("methods")


@cache
def _installed(name: str) -> Path:
    return Path(str(resources.files(f"compatbench.{name}"))).resolve()


def method_files() -> list[Path]:
    """The files of ``methods/``, one method adapter each."""
    return sorted(methods_folder().glob("[!_]*.py"))
