"""Write the settings that a search chose into the file of its suite."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from compatbench.data.cards import is_card_path, suite_cards
from compatbench.files.atomic import write_atomic
from compatbench.method.registry import builtin_methods
from compatbench.results.tuning_records import Tuning
from compatbench.results.tuning_search import without_chosen


def write_settings(suite: str, tuning: Tuning) -> None:
    """Write what a search chose for a method into `methods` of a suite's file.

    What else the file says of the method stays, and so does every other line.
    """
    published = builtin_methods().get(tuning.method).Config()
    chosen = tuning.settings[tuning.chosen].changes(published)
    kept = dict(without_chosen(suite_cards.read(suite))).get(tuning.method, {})
    settings = kept | chosen
    recipe = kept.get("recipe", {}) | chosen.get("recipe", {})
    if recipe:
        settings["recipe"] = recipe
    path = Path(suite) if is_card_path(suite) else suite_cards.path(suite)
    before = path.read_text(encoding="utf-8")
    after = set_method(before, tuning.method, settings)
    if after != before:
        write_atomic(path, after.encode())


def set_method(text: str, name: str, settings: Mapping[str, Any]) -> str:
    """Return the text of a suite's file in which `methods` has a line with these settings.

    A method that is there already keeps its place, and a new one comes in alphabetical order. The
    entry of a method without settings is taken out.
    """
    line = ""
    if settings:
        flow = yaml.safe_dump({**settings}, default_flow_style=True, sort_keys=False, width=10_000)
        line = f"  {name}: {flow.strip()}\n"
    head, mark, rest = text.partition("\nmethods:\n")
    if not mark:
        return f"{text.rstrip()}\nmethods:\n{line}" if line else text
    next_field = re.search(r"(?m)^[^ #\n]", rest)
    end = next_field.start() if next_field else len(rest)
    entries = rest[:end]
    own = re.search(rf"(?m)^  {re.escape(name)}:.*\n(?:    .*\n)*", entries)
    if own:
        entries = entries[: own.start()] + line + entries[own.end() :]
    else:
        place = _find_place(entries, name)
        entries = entries[:place] + line + entries[place:]
    return head + mark + entries + rest[end:]


def _find_place(entries: str, name: str) -> int:
    """Return where a new entry begins: before the first later name, and before its comments."""
    for entry in re.finditer(r"(?m)^(?:  #.*\n)*  ([\w+.-]+):", entries):
        if entry[1] > name:
            return entry.start()
    return len(entries.rstrip("\n")) + 1
