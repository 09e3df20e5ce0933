"""The needs of transfers, read from the cards in their files without running the files.

Running them would load PyTorch, which takes longer than writing all pages.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from compatbench.data.cards import COPIED
from compatbench.files.project_folders import content_files, content_folder


class Needs(NamedTuple):
    """A transfer's needs besides the module and the target."""

    access: frozenset[str]
    shots: int  # labels per class


def declared_needs(label: str) -> Needs | None:
    """Return the needs of a transfer in ``transfers/`` by its label, such as ``warm+4``.

    Return None if no file there has a card of this name with plain values, or if the label does
    not fit the card. Then only the class itself knows.
    """
    name, *settings = label.split("+")
    card = _read_cards(content_folder("transfers")).get(name)
    if card is None or "access" not in card:
        return None
    numbers = [part for part in settings if part.isdecimal()]
    known = {*card.get("settings", ()), *numbers}
    if not known.issuperset(settings):
        return None
    needs_labels = "labels" in card["access"]
    if len(numbers) != int(needs_labels):
        return None
    shots = int(numbers[0]) if numbers else 0
    return Needs(frozenset(card["access"]), shots)


@cache
def _read_cards(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the fields with plain values of every ``TransferCard`` in a folder, by name."""
    cards = {}
    for path in content_files("transfers"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "TransferCard":
                fields = dict(_plain_values(node))
                cards[fields.get("name")] = fields
    return cards


def _plain_values(call: ast.Call) -> Iterator[tuple[str | None, Any]]:
    named = {"COPIED": COPIED, "frozenset()": frozenset()}
    for keyword in call.keywords:
        text = ast.unparse(keyword.value)
        with suppress(ValueError):  # the value is computed, so only the class knows it
            value = named[text] if text in named else ast.literal_eval(text)
            yield keyword.arg, value
