"""Folders of the images of tasks.

``COMPATBENCH_DATA`` is the folder that holds all datasets, each under its card's ``folder``;
``COMPATBENCH_DATA_<TASK>`` is the folder of one task's images. ``--data-root`` sets either of these
environment variables for one command, so worker processes inherit its value.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from compatbench.data.cards import backbone_cards, task_cards
from compatbench.data.images.dataset_files import DataMissing, inside
from compatbench.errors import CompatbenchError

VARIABLE = "COMPATBENCH_DATA"


def variable_of(task: str) -> str:
    """Return the variable of one task's folder, such as ``COMPATBENCH_DATA_OXFORD_PETS``."""
    ending = task.upper().replace("-", "_").replace(".", "_")
    return f"{VARIABLE}_{ending}"


def cards_option(task: str | None, *backbones: str) -> tuple[str, ...]:
    """Return the words with which a command finds these cards; none if it finds them anyway."""
    folders = [backbone_cards.own_folder(backbone) for backbone in backbones]
    if task is not None:
        folders.insert(0, task_cards.own_folder(task))
    words: list[str] = []
    for folder in dict.fromkeys(folders):
        if folder is not None and folder.resolve() != Path.cwd():
            words += ["--cards", str(folder)]
    return tuple(words)


def images_option(task: str) -> tuple[str, ...]:
    """Return the words with which a command finds the images of a task; none if it does anyway."""
    folder = os.environ.get(variable_of(task))
    return ("--data-root", f"{task}={folder}") if folder else ()


def dataset_folder(task: str, folder: str) -> Path | None:
    """Return the place of a dataset, ``folder`` below the data root; None if no root is set.

    The images of a user's own card are below the card's folder, unless only the root has them.
    """
    place = os.environ.get(variable_of(task))
    if place:
        return Path(place).expanduser().absolute()
    root = os.environ.get(VARIABLE)
    below_root = None
    if root:
        below_root = Path(root).expanduser().absolute() / folder
    home = task_cards.own_folder(task)
    if home is None:
        return below_root
    root_has_it = below_root is not None and below_root.is_dir()
    if root_has_it and not (home / folder).is_dir():
        return below_root
    try:
        return inside(home, folder)
    except CompatbenchError:
        raise CompatbenchError(
            f"task '{task}': {home / folder} is a link out of the card's folder; give the place of "
            f"the images: --data-root {task}=FOLDER"
        ) from None


def find_dataset(task: str, folder: str) -> Path:
    """Return the place of a dataset that exists; raise ``DataMissing`` if it does not."""
    place = dataset_folder(task, folder)
    if place is None:
        fix = f"give --data-root, or set {VARIABLE}"
        raise DataMissing(f"task '{task}': no folder of datasets is set; {fix}")
    if not place.is_dir():
        fix = f"put the dataset there, or give its place: --data-root {task}=FOLDER"
        raise DataMissing(f"task '{task}': there is no folder {place}; {fix}")
    if not os.access(place, os.R_OK | os.X_OK):
        raise CompatbenchError(f"task '{task}': folder {place} cannot be read; check its rights")
    return place


def set_data_roots(options: Iterable[str]) -> None:
    """Set the data roots from ``--data-root``: ``/data``, or ``dtd=/elsewhere/dtd`` for a task."""
    for option in options:
        name, equals, path = option.partition("=")
        # A path may itself contain '='. The part before it is then not a task's name.
        if not equals or "/" in name or "\\" in name:
            name = ""
            path = option
        folder = Path(path).expanduser().absolute()
        if not folder.is_dir():
            raise CompatbenchError(f"--data-root '{option}': there is no folder {folder}")
        if name:
            task_cards.select_names(name)  # raises an error if there is no such task
            os.environ[variable_of(name)] = str(folder)
        else:
            os.environ[VARIABLE] = str(folder)
