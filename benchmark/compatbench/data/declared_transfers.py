"""What transfers need, as the cards in their files say, read without running these.

To load the files means to load PyTorch, which takes longer than to write all pages.
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
    """What a transfer needs besides the module and the target."""

    access: frozenset[str]
    shots: int  # labels per class


def declared_needs(label: str) -> Needs | None:
    """The needs of a transfer in ``transfers/`` by its label, such as ``words+raw`` or ``warm+4``.

    None if no file there has a card of the name with plain values, or the label is not of it; then
    only the class itself can tell.
    """
    name, *settings = label.split("+")
    card = _read_cards(content_folder("transfers")).get(name)
    if card is None or "access" not in card:
        return None
    numbers = [part for part in settings if part.isdecimal()]
    known = {*card.get("settings", ()), *numbers}
    if not known.issuperset(settings) or len(numbers) != ("labels" in card["access"]):
        return None
    return Needs(frozenset(card["access"]), int(numbers[0]) if numbers else 0)


@cache
def _read_cards(folder: Path) -> dict[str, dict[str, Any]]:
    """The fields with plain values of every ``TransferCard`` in a folder, by name."""
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
        with suppress(ValueError):  # what is computed, only the class knows
            yield keyword.arg, named[text] if text in named else ast.literal_eval(text)
