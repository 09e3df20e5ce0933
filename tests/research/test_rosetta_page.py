"""The tables of docs/rosetta.md are those of the committed results."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmark" / "research" / "rosetta.py"


@pytest.mark.slow
def test_the_page_shows_what_the_committed_results_give() -> None:
    script = runpy.run_path(str(SCRIPT))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["fill"](page) == page, "run 'python benchmark/research/rosetta.py'"


def test_nothing_was_developed_on_what_is_reported() -> None:
    script = runpy.run_path(str(SCRIPT))
    assert not {*script["DEVELOPMENT"]} & {*script["HELD_OUT"]}
    assert sorted([*script["DEVELOPMENT"], *script["HELD_OUT"]]) == sorted(script["TASKS"])
    assert not {*script["DEVELOPED"].seeds} & {*script["REPORTED"].seeds}
