"""The tables of docs/indexes.md are those of the committed results."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmark" / "research" / "indexes_page.py"


def test_the_page_shows_what_the_committed_results_give() -> None:
    script = runpy.run_path(str(SCRIPT))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["fill"](page) == page, "run 'python benchmark/research/indexes_page.py'"


def test_every_mark_lies_within_its_panel() -> None:
    script = runpy.run_path(str(SCRIPT))
    figure = script["draw"](script["read"]()[0])
    assert len(figure.axes) == 4
    for axes in figure.axes:
        _, right = axes.get_xlim()
        assert max(max(line.get_xdata()) for line in axes.lines) < right
