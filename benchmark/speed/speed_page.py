"""Make ``docs/speed.md`` and its picture from the JSON files beside this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import commands
from pages import Page

from compatbench.backbone.text.causal import GROUP
from compatbench.data.cards import task_cards
from compatbench.tables.figures.spec_parts import Shown


def make_page() -> Page:
    """Return the page and its picture."""
    text = _read("text")
    values = {
        "machine": text["machine"],
        "cases": text["cases"],
        "memory": _read("memory"),
        "commands": _read("commands"),
        "measured": commands,
        "trainers": _read("trainers"),
        "group": GROUP,
    }
    filters = {"task": _name_task, "gib": "{:.2f}".format}
    return Page(values, {"speed.svg": show_classes(text["cases"])}, filters=filters)


def _read(name: str) -> dict[str, Any]:
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))


def _name_task(name: str) -> str:
    """Return the name of the measured task, which may no longer be one."""
    return f"`{name}`" + ("" if name in task_cards.names() else ", a task of an earlier mini suite")


def show_classes(cases: list[dict[str, Any]]) -> Shown:
    """Show CPU seconds of both ways against classes, and how many times faster ours is."""
    ours, plain = "compatbench", "77 tokens for every class"
    rows = []
    ticks = []
    for case in cases:
        if "dataset" not in case:
            continue
        ticks.append(case["classes"])
        times = f"{case['speed_up']:.0f}×"
        for series, field, label in ((ours, "seconds", times), (plain, "plain_seconds", "")):
            row = {"classes": case["classes"], "series": series}
            rows.append(row | {"seconds": round(case[field], 4), "times": label})
    return Shown(rows, {"series": (ours, plain), "ticks": ticks})
