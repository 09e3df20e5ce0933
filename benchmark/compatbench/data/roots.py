"""Where a user's datasets lie.

``COMPATBENCH_DATA`` is the folder that holds all of them, each under its card's ``folder``;
``COMPATBENCH_DATA_<TASK>`` is the folder of one alone. ``--data-root`` sets either for the
time of a command. Both are environment variables, so worker processes see what the command
was told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from compatbench.data.cards import select_names, task_cards
from compatbench.errors import CompatbenchError

VARIABLE = "COMPATBENCH_DATA"


def variable_of(task: str) -> str:
    """The variable that names one task's folder: ``COMPATBENCH_DATA_OXFORD_PETS``."""
    return f"{VARIABLE}_{task.upper().replace('-', '_').replace('.', '_')}"


def dataset_folder(task: str, folder: str) -> Path | None:
    """The folder of a task's dataset, whether it exists or not; None if no root is set.

    Args:
        folder: where the card puts it, relative to the root of all data.
    """
    if own := os.environ.get(variable_of(task)):
        return Path(own).expanduser().absolute()
    if root := os.environ.get(VARIABLE):
        return Path(root).expanduser().absolute() / folder
    return None


def set_data_roots(options: Iterable[str]) -> None:
    """Takes the values of ``--data-root``: ``/data``, or ``dtd=/elsewhere/dtd`` for one task.

    Raises:
        CompatbenchError: an unknown task, or a folder that does not exist.
    """
    for option in options:
        name, equals, path = option.partition("=")
        # A path may hold '=' itself; what lies before it is then no name.
        if not equals or "/" in name or "\\" in name:
            name, path = "", option
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            raise CompatbenchError(f"--data-root '{option}': there is no folder {folder}")
        if name:
            select_names([name], task_cards.names(), "task")
        os.environ[variable_of(name) if name else VARIABLE] = str(folder)
