"""The needs of the transfers of this repository, as ``transfers/needs.yaml`` lists them.

Each transfer states its needs on its own card. To import the transfers would load PyTorch, which
takes longer than writing all pages, so the pages read this list. A test compares both.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from compatbench.data.cards.yaml_file import CardModel, read_card
from compatbench.data.labels import Access
from compatbench.files.project_folders import content_folder


class Needs(NamedTuple):
    """A transfer's needs besides the module and the target."""

    access: frozenset[str]
    shots: int  # labels per class


class ListedTransfer(CardModel):
    """A line of the list."""

    access: frozenset[Access]
    settings: tuple[str, ...] = ()  # names that may follow the transfer's, besides a number


class ListedTransfers(CardModel):
    """The whole list, by name."""

    transfers: dict[str, ListedTransfer]


_FROM_OUTSIDE: dict[str, Needs] = {}


def declare_needs(label: str, needs: Needs) -> None:
    """Note the needs of a transfer from outside, whose code this process does not import."""
    _FROM_OUTSIDE[label] = needs


def declared_needs(label: str) -> Needs | None:
    """Return the needs of a transfer in ``transfers/`` by its label, such as ``warm+4``.

    Return None if no transfer of this name is listed or noted, or if the label does not fit it.
    Then only the class itself knows.
    """
    if label in _FROM_OUTSIDE:
        return _FROM_OUTSIDE[label]
    name, *settings = label.split("+")
    listed = listed_transfers().get(name)
    if listed is None:
        return None
    numbers = [part for part in settings if part.isdecimal()]
    known = {*listed.settings, *numbers}
    if not known.issuperset(settings):
        return None
    needs_labels = "labels" in listed.access
    if len(numbers) != int(needs_labels):
        return None
    shots = int(numbers[0]) if numbers else 0
    return Needs(listed.access, shots)


def listed_transfers() -> dict[str, ListedTransfer]:
    """Return the listed transfers by name."""
    return _read_list(content_folder("transfers") / "needs.yaml")


@cache
def _read_list(path: Path) -> dict[str, ListedTransfer]:
    return read_card(path, ListedTransfers).transfers
