"""The folders of method files and cards, found without loading any of these."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path

from compatbench.errors import CompatbenchError

TASKS_VARIABLE = "COMPATBENCH_TASKS"
CARDS_VARIABLE = "COMPATBENCH_CARDS"
CONTENT = ("methods", "transfers", "formats")  # folders to which people add files


def tasks_folder() -> Path:
    """Return the folder of the cards: ``$COMPATBENCH_TASKS``, or the installed one."""
    variable = os.environ.get(TASKS_VARIABLE)
    if not variable:
        return installed_folder("tasks")
    folder = Path(variable).expanduser().resolve()
    if not any(folder.glob("*.yaml")):
        problem = f"there are no task cards in {folder}; name a folder of cards, or unset it"
        raise CompatbenchError(f"{TASKS_VARIABLE}: {problem}")
    return folder


def own_places() -> list[Path]:
    """Return more folders and files of cards: those of ``$COMPATBENCH_CARDS``, and this folder."""
    places = []
    for place in os.environ.get(CARDS_VARIABLE, "").split(os.pathsep):
        if place:
            places.append(Path(os.path.expanduser(place)).absolute())
    with suppress(OSError):  # the current folder was deleted
        places.append(Path.cwd())
    return places


def add_own_place(place: Path) -> None:
    """Make the cards of a folder or file known by name, in this process and its workers."""
    place = Path(os.path.expanduser(place)).absolute()
    if os.pathsep in str(place):
        raise CompatbenchError(f"cards cannot be read from {place}: its name has a '{os.pathsep}'")
    # A folder stands for the files in it, but not for those of its sub-folders.
    folder = place if place.is_dir() else place.parent
    known = own_places()
    if place in known or folder in known:
        return
    before = os.environ.get(CARDS_VARIABLE, "")
    if before:
        os.environ[CARDS_VARIABLE] = f"{before}{os.pathsep}{place}"
    else:
        os.environ[CARDS_VARIABLE] = str(place)


def forget_own_place(place: Path) -> None:
    """Make the cards of a folder unknown again, in this process and its workers."""
    kept = []
    for known in os.environ.get(CARDS_VARIABLE, "").split(os.pathsep):
        if known and Path(os.path.expanduser(known)).absolute() != place:
            kept.append(known)
    os.environ[CARDS_VARIABLE] = os.pathsep.join(kept)


def content_folder(kind: str) -> Path:
    """Return the folder ``methods``, ``transfers`` or ``formats``."""
    return installed_folder(kind)


@cache
def installed_folder(name: str) -> Path:
    """Return a folder of this installation, such as ``methods`` or ``tasks``."""
    return Path(str(resources.files(f"compatbench.{name}"))).resolve()


def shipped_results(name: str) -> Path:
    """Return a folder of ``results/``: of the installation, or of the clone that is run."""
    package = Path(__file__).parents[1]
    installed = package / name
    if installed.is_dir():
        return installed
    return package.parents[1] / "results" / name


def content_files(kind: str) -> list[Path]:
    """Return the files of ``methods/``, ``transfers/`` or ``formats/``, sorted by name."""
    return sorted(content_folder(kind).glob("[!_]*.py"))


def content_names(kind: str) -> list[str]:
    """Return the names of the project's methods or transfers, as their files are called.

    Names of transfers are written with hyphens, which the name of a Python file cannot have.
    """
    names = [path.stem for path in content_files(kind)]
    if kind == "transfers":
        names = [name.replace("_", "-") for name in names]
    return sorted(names)
