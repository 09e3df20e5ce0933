"""The settings of methods on a suite's card, in a text whose other lines stay as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from compatbench.data.cards import SuiteCard, suite_cards
from compatbench.files.atomic import write_atomic
from compatbench.method.registry import builtin_methods
from compatbench.results.tuning_records import Tuning
from compatbench.results.tuning_search import without_chosen


def write_chosen(card: SuiteCard, record: Tuning, out: Path) -> None:
    """Writes what a record has chosen for its method on the card, if that is of the clone ``out``.

    What the card says besides stays.
    """
    chosen = record.settings[record.chosen]
    changes = chosen.changes(builtin_methods().get(record.method).Config())
    rest = dict(without_chosen(card)).get(record.method, {})
    recipe = {**rest.get("recipe", {}), **changes.pop("recipe", {})}
    settings = rest | changes | ({"recipe": recipe} if recipe else {})
    if settings != card.methods.get(record.method, {}):
        write_settings(card, record.method, settings, out)


def write_settings(card: SuiteCard, name: str, settings: Mapping[str, Any], out: Path) -> None:
    """Writes the settings of a method on the card, if that is of the clone ``out``."""
    path = suite_cards.path(card.name)
    if path.resolve().is_relative_to(out.resolve()):
        text = set_method(path.read_text(encoding="utf-8"), name, settings)
        write_atomic(path, text.encode())


def set_method(text: str, name: str, settings: Mapping[str, Any]) -> str:
    """The text of a card with the settings of a method, on a line of its own in ``methods``.

    A method that has settings keeps its place; without any it is left out.
    """
    shown = yaml.safe_dump({**settings}, default_flow_style=True, sort_keys=False, width=10_000)
    line = f"  {name}: {shown.strip()}\n" if settings else ""
    head, mark, rest = text.partition("\nmethods:\n")
    if not mark:
        return f"{text.rstrip()}\nmethods:\n{line}" if line else text
    block = re.match(r"(?:[ #].*\n|\n)*", rest)
    assert block is not None
    # An entry is its first line and those that are further in.
    entries = re.split(r"(?m)^(?=  [^ #\n])", block[0])
    places = [number for number, entry in enumerate(entries) if entry.startswith(f"  {name}:")]
    if places:
        # Comments that follow are the next entry's.
        comment = re.search(r"(?m)^  #", entries[places[0]])
        entries[places[0]] = line + (entries[places[0]][comment.start() :] if comment else "")
    elif line:
        later = [
            number for number, entry in enumerate(entries) if entry[:2] == "  " and entry > line
        ]
        entries.insert(min(later, default=len(entries)), line)
    return head + mark + "".join(entries) + rest[block.end() :]
