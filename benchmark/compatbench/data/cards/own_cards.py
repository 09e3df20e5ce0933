"""A user's own cards: those in the current folder, and in the folders and files they name."""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import CARDS_VARIABLE, own_places
from compatbench.files.yaml_text import MALFORMED, MOST_BYTES, load_yaml

ENDINGS = (".yaml", ".yml")
INNER = ("backbones", "suites")  # folders of a folder of cards, as the built-in ones have them
SETTLED = 2 * 10**9  # ns after which a folder's time shows every change
# A folder may hold other YAML; a card is recognised by its fields, each at the start of a line.
_FIELDS = {"suite": "upgrades extends", "task": "source", "backbone": "config path repository"}


class OwnCard(NamedTuple):
    """A file with a card of a kind, under the name in its field ``name``."""

    kind: str
    name: str
    parent: str | None  # the task of which it is a variant
    path: Path
    changed: int  # ns since the epoch


def own_cards() -> dict[str, OwnCard]:
    """Return the cards of ``$COMPATBENCH_CARDS`` and the current folder, by their real paths.

    Raises:
        CompatbenchError: a named folder or file does not exist, or a file is not a card.
    """
    cards: dict[str, OwnCard] = {}
    for place in own_places():
        is_folder = place.is_dir()
        paths = _list_files(place) if is_folder else [place]
        for path in paths:
            card = look_at(path)
            if card:
                cards.setdefault(os.path.realpath(path), card)
            elif not is_folder:
                raise CompatbenchError(f"{CARDS_VARIABLE}: {why_no_card(place)}")
    return cards


def why_no_card(path: Path) -> str:
    """Return the error for a path that is neither a folder of cards nor a file with a card."""
    if not path.exists():
        return f"there is no folder or file {path}"
    return (
        f"{path} is not a card of a task, backbone or suite, which has its fields 'name', 'title' "
        "and so on, each at the start of a line"
    )


def _list_files(folder: Path) -> list[Path]:
    files = []
    for place in (folder, *(folder / name for name in INNER)):
        with suppress(OSError):
            changed = os.stat(place).st_mtime_ns
            # A folder that has just changed may change again and keep the same time.
            settled = time.time_ns() - changed > SETTLED
            names = _list_yaml_once(place, changed) if settled else _list_yaml(place)
            files += [place / name for name in names]
    return files


@lru_cache(maxsize=64)  # listing a folder of many images takes long
def _list_yaml_once(folder: Path, changed: int) -> list[str]:
    return _list_yaml(folder)


def _list_yaml(folder: Path) -> list[str]:
    names = []
    for name in os.listdir(folder):
        if name.endswith(ENDINGS) and not name.startswith("."):
            names.append(name)
    return sorted(names)


def look_at(path: Path) -> OwnCard | None:
    """Return the card in a file, which may be a broken one; None if the file contains none."""
    with suppress(OSError):
        facts = os.stat(path)
        if stat.S_ISREG(facts.st_mode) and facts.st_size <= MOST_BYTES:
            return _look(path, facts.st_mtime_ns, facts.st_size)
    return None


@lru_cache(maxsize=4096)
def _look(path: Path, changed: int, size: int) -> OwnCard | None:
    text = path.read_text(encoding="utf-8", errors="replace")
    # Fields are recognised by their lines alone, which is much faster than parsing whole files.
    lines = {name: line for line, name in re.findall(r"(?m)^((\w+)[ \t]*:.*)$", text)}
    if not {"name", "title"} <= lines.keys():
        return None
    values = {"name": path.stem, "parent": ""}
    for field in values:
        with suppress(*MALFORMED):  # a missing or broken line leaves the default
            parsed = load_yaml(lines[field])
            values[field] = str(parsed[field] or "")
    for kind, fields in _FIELDS.items():
        if lines.keys() & {*fields.split()}:
            return OwnCard(kind, values["name"], values["parent"] or None, path, changed)
    return None
