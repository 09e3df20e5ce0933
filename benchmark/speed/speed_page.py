"""``docs/speed.md`` and its two pictures, from the JSON files beside this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import commands
from pages import Page

from compatbench.backbone.text.causal import GROUP
from compatbench.data.cards import task_cards
from compatbench.tables.figures.spec_parts import Shown

HERE = Path(__file__).parent
PARTS = ("plan", "store", "read", "report")  # of what is done with finished cells
# Rows after those of the datasets.
TITLES = {
    "test_coop_step": "a CoOp step, batch 32 (plain: images encoded each step)",
    "test_cocoop_image": "CoCoOp, forward and backward, one image",
    "test_small_tower": "a small tower: width 192, 6 blocks",
}


def make_page() -> Page:
    """The page and its pictures; what was not measured is None."""
    data, harness = _read("results.json"), _read("harness.json")
    cases, harness_cases = _by_name(data), _by_name(harness)
    by_classes, finished = _by_classes(cases), _finished(harness_cases)
    titled = [
        (f"{case['extra_info']['dataset']}, forward and backward", case) for case in by_classes
    ]
    titled += [(title, cases[name]) for name, title in TITLES.items()]
    values = {
        "machine": data["machine_info"],
        "cases": [(title, _seconds(case), case["extra_info"]) for title, case in titled],
        "memory": cases["test_imagenet_within_2_gib"]["extra_info"],
        "classify": _read("classify.jsonl"),
        "harness": harness | {"cases": harness_cases, "finished": finished},
        "parts": PARTS,
        "commands": _read("commands.json"),
        "measured": commands,
        "trainers": _read("trainers.json"),
        "cells": _read("cells.json"),
        "indexes": _read("indexes.json"),
        "gpus": _read("gpu.json") or {},
        "group": GROUP,
    }
    filters = {
        "task": _task,
        "gib": lambda size: "" if size is None else f"{size:.2f}",
    }
    figures = {"speed.svg": show_classes(by_classes), "speed-cells.svg": show_cells(finished)}
    return Page(values, figures, filters=filters)


def _task(name: str) -> str:
    """The task that was measured on, which may no longer be one."""
    return f"`{name}`" + ("" if name in task_cards.names() else ", a task of an earlier mini suite")


def _by_name(data: dict[str, Any]) -> dict[str, Any]:
    return {case["name"]: case for case in data["benchmarks"]}


def _by_classes(cases: dict[str, Any]) -> list[Any]:
    by_dataset = [case for case in cases.values() if "dataset" in case["extra_info"]]
    return sorted(by_dataset, key=lambda case: case["extra_info"]["classes"])


def _seconds(case: dict[str, Any]) -> float:
    return case["stats"]["min"] / case["extra_info"].get("images", 1)


def _finished(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of finished cells, by the numbers of methods and of cells."""
    many = [case["extra_info"] for case in cases.values() if "cells" in case["extra_info"]]
    return sorted(many, key=lambda facts: (facts["methods"], facts["cells"]))


def _read(name: str) -> Any:
    """What a file beside this one holds, of ``.jsonl`` a list; None if there is none."""
    path = HERE / name
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [*map(json.loads, text.splitlines())]


def show_cells(finished: list[dict[str, Any]]) -> Shown:
    """CPU seconds against finished cells, of the most methods."""
    rows = [
        {"cells": facts["cells"], "series": part, "place": place}
        | {"seconds": round(facts["parts"][part], 3)}
        for facts in finished
        for place, part in enumerate(PARTS)
        if facts["methods"] == finished[-1]["methods"]
    ]
    return Shown(rows, {"series": PARTS})


def show_classes(by_classes: list[Any]) -> Shown:
    """CPU seconds of both ways against classes, and how many times faster ours is."""
    names, rows = ("compatbench", "77 tokens for every class"), []
    for case in by_classes:
        facts = case["extra_info"]
        for name, seconds in zip(names, (_seconds(case), facts["plain_seconds"]), strict=True):
            row = {"classes": facts["classes"], "series": name, "seconds": round(seconds, 4)}
            rows.append(row | {"times": f"{facts['ratio']:.0f}×" if name == names[0] else ""})
    ticks = [case["extra_info"]["classes"] for case in by_classes]
    return Shown(rows, {"series": names, "ticks": ticks})
