"""The tables of docs/indexes.md are those of the committed results."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmark" / "research" / "indexes_page.py"


def test_the_page_shows_what_the_committed_results_give() -> None:
    script = runpy.run_path(str(SCRIPT))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["fill"](page) == page, "run 'python benchmark/research/indexes_page.py'"


def test_the_picture_has_a_mark_for_each_way_and_kind_of_queries() -> None:
    script = runpy.run_path(str(SCRIPT))
    marks = script["picture"](script["read"]()[0])["data"]["values"]
    assert len({mark["panel"] for mark in marks}) == 4
    places = {(mark["panel"], mark["series"], mark["way"]) for mark in marks}
    assert len(places) == len(marks)
