"""Where the method files and the cards lie, found without loading any of them."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path


def tasks_folder() -> Path:
    """Where the cards lie: ``$COMPATBENCH_TASKS``, or the folder that is installed."""
    if folder := os.environ.get("COMPATBENCH_TASKS"):
        return Path(folder).resolve()
    return Path(str(resources.files("compatbench.tasks"))).resolve()


def methods_folder() -> Path:
    """Where the method files lie."""
    return Path(str(resources.files("compatbench.methods"))).resolve()


def method_files() -> list[Path]:
    """The files of ``methods/``, one method adapter each."""
    return sorted(methods_folder().glob("[!_]*.py"))
