"""Where the images of tasks are.

``COMPATBENCH_DATA`` is the folder that holds all datasets, each under its card's ``folder``;
``COMPATBENCH_DATA_<TASK>`` is the folder of one alone. ``--data-root`` sets either of these
environment variables for one command, so worker processes see what it was given.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from compatbench.data.cards import task_cards
from compatbench.data.images.dataset_files import DataMissing, inside
from compatbench.errors import CompatbenchError

VARIABLE = "COMPATBENCH_DATA"


def variable_of(task: str) -> str:
    """The variable that names one task's folder: ``COMPATBENCH_DATA_OXFORD_PETS``."""
    return f"{VARIABLE}_{task.upper().replace('-', '_').replace('.', '_')}"


def dataset_folder(task: str, folder: str) -> Path | None:
    """The place of a dataset, ``folder`` below the data root; None if no root is set.

    That of a card of one's own is below the card's folder, unless it is only below the root.
    """
    if place := os.environ.get(variable_of(task)):
        return Path(place).expanduser().absolute()
    root = os.environ.get(VARIABLE)
    below_root = Path(root).expanduser().absolute() / folder if root else None
    if (home := task_cards.own_folder(task)) is None or (
        below_root is not None and below_root.is_dir() and not (home / folder).is_dir()
    ):
        return below_root
    try:
        return inside(home, folder)
    except CompatbenchError:
        raise CompatbenchError(
            f"task '{task}': {home / folder} is a link out of the card's folder; give the place of "
            f"the images: --data-root {task}=FOLDER"
        ) from None


def find_dataset(task: str, folder: str) -> Path:
    """As above, where it exists; raises ``DataMissing`` if it is not there."""
    if (place := dataset_folder(task, folder)) is None:
        fix = f"give --data-root, or set {VARIABLE}"
        raise DataMissing(f"task '{task}': no folder of datasets is set; {fix}")
    if not place.is_dir():
        fix = f"put the dataset there, or give its place: --data-root {task}=FOLDER"
        raise DataMissing(f"task '{task}': there is no folder {place}; {fix}")
    if not os.access(place, os.R_OK | os.X_OK):
        raise CompatbenchError(f"task '{task}': folder {place} cannot be read; check its rights")
    return place


def set_data_roots(options: Iterable[str]) -> None:
    """Takes the values of ``--data-root``: ``/data``, or ``dtd=/elsewhere/dtd`` for one task."""
    for option in options:
        name, equals, path = option.partition("=")
        # A path may contain '=' itself; what precedes it is then no name.
        if not equals or "/" in name or "\\" in name:
            name, path = "", option
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            raise CompatbenchError(f"--data-root '{option}': there is no folder {folder}")
        if name:
            task_cards.select_names(name)
        os.environ[variable_of(name) if name else VARIABLE] = str(folder)
