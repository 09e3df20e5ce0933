"""Make ``docs/speed.md`` from the JSON files beside this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import commands
from pages import Page

from compatbench.backbone.text.causal import GROUP


def make_page() -> Page:
    """Return the page."""
    text = _read("text")
    [step] = [case for case in text["cases"] if "CoOp step" in case["title"]]
    trainers = _read("trainers")
    values = {
        "machine": text["machine"],
        "cases": text["cases"],
        "step": step,
        "memory": _read("memory"),
        "commands": _read("commands"),
        "measured": commands,
        "main_job": _read("main_job"),
        "trainers": trainers,
        # How many times less CPU time each whole fit takes.
        "fits": [fit["trainers"] / fit["compatbench"] for fit in trainers["fits"].values()],
        "group": GROUP,
    }
    return Page(values, filters={"gib": "{:.2f}".format})


def _read(name: str) -> dict[str, Any]:
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))
