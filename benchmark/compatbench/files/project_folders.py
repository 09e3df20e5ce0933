"""Where the method files and the cards are, found without loading any of them."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from importlib import resources
from pathlib import Path

from compatbench.errors import CompatbenchError

TASKS_VARIABLE = "COMPATBENCH_TASKS"
CARDS_VARIABLE = "COMPATBENCH_CARDS"
CONTENT = ("methods", "transfers", "formats")  # the folders of what people add


def tasks_folder() -> Path:
    """The folder of the cards: ``$COMPATBENCH_TASKS``, or the one that is installed."""
    if not (named := os.environ.get(TASKS_VARIABLE)):
        return installed_folder("tasks")
    folder = Path(named).expanduser().resolve()
    if not any(folder.glob("*.yaml")):
        what = f"there are no task cards in {folder}; name a folder of cards, or unset it"
        raise CompatbenchError(f"{TASKS_VARIABLE}: {what}")
    return folder


def own_places() -> list[Path]:
    """Further folders and files of cards: those of ``$COMPATBENCH_CARDS``, and this folder."""
    named = filter(None, os.environ.get(CARDS_VARIABLE, "").split(os.pathsep))
    places = [Path(os.path.expanduser(place)).absolute() for place in named]
    with suppress(OSError):  # a folder that was deleted
        places.append(Path.cwd())
    return places


def add_own_place(place: Path) -> None:
    """Has the cards of a folder, or one in a file, found by name; worker processes inherit it."""
    place = Path(os.path.expanduser(place)).absolute()
    if os.pathsep in str(place):
        raise CompatbenchError(f"cards cannot be read from {place}: its name has a '{os.pathsep}'")
    # A folder gives the files in it, and not those of the folders in it.
    if not {place, place if place.is_dir() else place.parent} & {*own_places()}:
        before = os.environ.get(CARDS_VARIABLE, "")
        os.environ[CARDS_VARIABLE] = os.pathsep.join(filter(None, [before, str(place)]))


def content_folder(kind: str) -> Path:
    """The folder ``methods``, ``transfers`` or ``formats``."""
    return installed_folder(kind)


@cache
def installed_folder(name: str) -> Path:
    """The folder ``methods`` or ``tasks`` of this installation."""
    return Path(str(resources.files(f"compatbench.{name}"))).resolve()


def shipped_results(name: str) -> Path:
    """A folder of ``results/`` as it is installed, or of the clone that is run."""
    package = Path(__file__).parents[1]
    installed = package / name
    return installed if installed.is_dir() else package.parents[1] / "results" / name


def content_files(kind: str) -> list[Path]:
    """The files of ``methods/``, ``transfers/`` or ``formats/``, one piece of content each."""
    return sorted(content_folder(kind).glob("[!_]*.py"))
