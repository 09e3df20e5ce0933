"""Makes docs/speed.md and its two pictures from the JSON files beside it, by the templates there.

The page names the commands that make those; cells.py compares the mini suite in two checkouts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from many import BARS

from compatbench.tables.figures.charts import axis, chart, colour, curves, layer, save_chart
from compatbench.tables.figures.colours import BLUE, GREY

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
PARTS = ("plan", "store", "read", "report")  # of what is done with finished cells
# Rows after those of the datasets.
TITLES = {
    "test_coop_step": "a CoOp step, batch 32 (plain: images encoded each step)",
    "test_cocoop_image": "CoCoOp, forward and backward, one image",
    "test_small_tower": "a small tower: width 192, 6 blocks",
}


def main() -> None:
    data = _read("results.json")
    cases = _by_name(data)
    (DOCS / "speed.md").write_text(make_page(data["machine_info"], cases), encoding="utf-8")
    draw_plot(_by_classes(cases), DOCS / "speed.svg")
    if harness := _read("harness.json"):
        draw_cells(_finished(_by_name(harness)), DOCS / "speed-cells.svg")


def make_page(machine: dict[str, Any], cases: dict[str, Any]) -> str:
    from compatbench.backbone.text.causal import GROUP

    titled = [
        (f"{case['extra_info']['dataset']}, forward and backward", case)
        for case in _by_classes(cases)
    ]
    titled += [(title, cases[name]) for name, title in TITLES.items()]
    harness = _read("harness.json")
    if harness:
        own = _by_name(harness)
        harness |= {"cases": own, "finished": _finished(own)}
    return _template("speed.md.jinja").render(
        machine=machine,
        cases=[(title, _seconds(case), case["extra_info"]) for title, case in titled],
        memory=cases["test_imagenet_within_2_gib"]["extra_info"],
        classify=_read("classify.jsonl"),
        harness=harness,
        parts=PARTS,
        many=_read("many.json"),
        bars=BARS,
        trainers=_read("trainers.json"),
        cells=_read("cells.json"),
        indexes=_read("indexes.json"),
        gpus=_read("gpu.json") or {},
        group=GROUP,
    )


def gpu(card: str, found: dict[str, Any]) -> str:
    """The section of one card, whose figures are those of gpu.py."""
    return _template("gpu.md.jinja").render(card=card, found=found)


def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = format
    environment.filters["task"] = _task
    environment.filters["gib"] = lambda size: "" if size is None else f"{size:.2f}"
    return environment.get_template(name)


def _task(name: str) -> str:
    """The task that was measured on, which may no longer be one."""
    from compatbench.data.cards import task_cards

    return f"`{name}`" + ("" if name in task_cards.names() else ", a task of an earlier mini suite")


def _by_name(data: dict[str, Any]) -> dict[str, Any]:
    return {case["name"]: case for case in data["benchmarks"]}


def _by_classes(cases: dict[str, Any]) -> list[Any]:
    found = [case for case in cases.values() if "dataset" in case["extra_info"]]
    return sorted(found, key=lambda case: case["extra_info"]["classes"])


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


def draw_cells(finished: list[dict[str, Any]], path: Path) -> None:
    """Stacked CPU seconds against finished cells, of the most methods."""
    most = [facts for facts in finished if facts["methods"] == finished[-1]["methods"]]
    rows = [
        {"series": part, "cells": facts["cells"], "seconds": facts["parts"][part]}
        for facts in most
        for part in PARTS
    ]
    x, y = axis("cells", "finished cells"), axis("seconds", "CPU seconds")
    layers = [layer("area", {"x": x, "y": y, "color": colour(PARTS)}, rows, opacity=0.7)]
    save_chart(chart(layers, 460, 260), path, "CPU seconds by finished cells")


def draw_plot(cases: list[Any], path: Path) -> None:
    """CPU seconds of both ways against classes, of the datasets' cases."""
    plain, ours = "77 tokens for every class", "compatbench"
    rows = []
    for case in cases:
        facts = case["extra_info"]
        ratio = {"ratio": f"{facts['ratio']:.0f}×"}
        for series, seconds in ((plain, facts["plain_seconds"]), (ours, _seconds(case))):
            row = {"series": series, "classes": facts["classes"], "seconds": seconds}
            rows.append(row | (ratio if series == ours else {}))
    classes = sorted({row["classes"] for row in rows})
    x = axis("classes", "classes", log=True, values=classes)
    y = axis("seconds", "CPU seconds, forward and backward", log=True)
    spec = curves(rows, x, y, [plain, ours], colours=(GREY, BLUE))
    beside = {"x": x, "y": y, "text": {"field": "ratio"}}
    ratios = [row for row in rows if "ratio" in row]
    spec["layer"].append(layer("text", beside, ratios, dy=14, dx=10, color=BLUE))
    save_chart(spec, path, "CPU seconds by the number of classes")


if __name__ == "__main__":
    main()
