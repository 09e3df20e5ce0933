"""docs/reliability.md, from its text and results.json."""

from __future__ import annotations

import json
from pathlib import Path

from pages import fill_template

HERE = Path(__file__).parent


def make_files() -> dict[str, str]:
    results = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    return {"reliability.md": fill_template(HERE / "reliability.md.jinja", {}, **results)}
