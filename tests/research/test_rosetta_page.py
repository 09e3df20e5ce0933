"""The tables of docs/rosetta.md are those of the committed results."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from compatbench.data.cards import suite_cards

SCRIPT = Path(__file__).parents[2] / "benchmark" / "research" / "rosetta.py"


@pytest.mark.slow
def test_the_page_shows_what_the_committed_results_give() -> None:
    script = runpy.run_path(str(SCRIPT))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert script["fill"](page) == page, "run 'python benchmark/research/rosetta.py'"


def test_no_task_that_it_was_designed_on_is_reported() -> None:
    script = runpy.run_path(str(SCRIPT))
    suite, parts = (
        suite_cards.read("mini"),
        suite_cards.read(str(script["HERE"] / "rosetta-parts.yaml")),
    )
    assert {"mini-animals", "mini-icons", "mini-travel"} == {*suite.development}
    assert not {*parts.tasks} & {*suite.development}
