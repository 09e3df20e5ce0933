"""``docs/reliability.md``, from results.json."""

from __future__ import annotations

import json
from pathlib import Path

from pages import Page


def make_page() -> Page:
    results = Path(__file__).with_name("results.json").read_text(encoding="utf-8")
    return Page(json.loads(results))
