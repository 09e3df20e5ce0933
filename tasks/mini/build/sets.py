"""The icon sets, their licences and their roles, as sets.yaml states them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

BUILD_FOLDER = Path(__file__).resolve().parent
MINI_FOLDER = BUILD_FOLDER.parent
TASKS_FOLDER = MINI_FOLDER.parent

Role = Literal["source", "next", "target", "held-out"]


@dataclass(frozen=True)
class Package:
    """One archive of the npm registry, pinned by version and hash."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        """The file name that ``npm pack`` gives the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class IconSet:
    """One icon set in Iconify's format.

    Attributes:
        name: Iconify's prefix of the set, such as ``twemoji``.
        package: The archive that holds it.
        role: Which models may see it in pre-training; ``held-out`` means none.
        kind: ``emoji`` sets name drawings by Unicode emoji, ``icons`` by words.
        style: The look of the set in a few words.
        monochrome: Whether the drawings carry no colour of their own.
        licence: SPDX identifier.
        attribution: Title and author.
        link: Where the set comes from.
    """

    name: str
    package: Package
    role: Role
    kind: Literal["emoji", "icons"]
    style: str
    monochrome: bool
    licence: str
    attribution: str
    link: str

    @property
    def is_emoji(self) -> bool:
        return self.kind == "emoji"


@cache
def _table() -> dict:
    return yaml.safe_load((BUILD_FOLDER / "sets.yaml").read_text(encoding="utf-8"))


@cache
def icon_sets() -> dict[str, IconSet]:
    """All icon sets by name, in the order of sets.yaml."""
    sets = {}
    for name, row in _table()["sets"].items():
        fields = dict(row)
        package = Package(f"@iconify-json/{name}", str(fields.pop("version")), fields.pop("sha256"))
        sets[name] = IconSet(name=name, package=package, **fields)
    return sets


def emoji_names() -> Package:
    """The package with the labels, tags and groups of all emoji."""
    row = _table()["emoji_names"]
    return Package(row["package"], str(row["version"]), row["sha256"])


def names_with_role(*roles: Role) -> list[str]:
    """Names of the sets that play one of the roles, in the order of sets.yaml."""
    return [s.name for s in icon_sets().values() if s.role in roles]
