"""Results that are too good, or too equal, are flagged until a maintainer has looked."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_results import COOP, PROBE, UPGRADE, make_method, make_page, make_pairs, with_card
from rich.console import Console

from compatbench.data.cards.shots import ALL_SHOTS
from compatbench.results.expected import Expected
from compatbench.results.plausibility import find_implausible
from compatbench.results.result_files import ResultFiles
from compatbench.results.stored_method import MethodInfo, StoredMethod
from compatbench.tables.flags import list_flags
from compatbench.tables.pages.leaderboard import render_suite
from compatbench.tables.pages.method_pages import render_method_pages
from compatbench.tables.suite_page import SuitePage, published_pages
from compatbench.tables.terminal_ranking import print_flags

REPOSITORY = Path(__file__).parents[2]
TASKS = ("a", "b", "c", "d", "e", "f")
EXPECTED = Expected(TASKS, (4,), (1, 2), (UPGRADE,))


def method(
    name: str, target: int, source: int = 50, step: int = 1, info: MethodInfo = COOP
) -> StoredMethod:
    """Return a method with these accuracies; the second seed has ``step`` images more."""
    cells = {}
    for task in TASKS:
        for seed in (1, 2):
            more = step * (seed - 1)
            cells[task, seed] = (source + more, target + more)
    about = replace(info, name=name, title=name.upper())
    return make_method(about, make_pairs(cells, method=name))


def page_of(*methods: StoredMethod, **changes: Any) -> SuitePage:
    titles = {task: task for task in TASKS}
    return make_page(*methods, expected=EXPECTED, tasks=titles, **changes)


def flags_of(page: SuitePage, reviewed: tuple[str, ...] = ()) -> list[tuple[str, str, float]]:
    """Return the method, what is flagged, and the amount, of each flag."""
    flags = find_implausible(page.results, page.expected, 4, reviewed, page.configs)
    return [(flag.method, flag.what, round(flag.amount, 6)) for flag in flags]


@pytest.mark.parametrize(
    ("target", "others", "lead"),
    [
        (80, [64], 16),
        (79, [64], 15),
        (78, [64], None),
        (80, [64, 70], None),
        # Zero-shot, which has 60, counts where all others are worse.
        (70, [30], None),
        (76, [30], 16.5),
        (90, [], None),
    ],
)
def test_a_gain_of_15_points_above_the_best_of_its_kind_is_flagged(
    target: int, others: list[int], lead: float | None
) -> None:
    of_its_kind = [method(f"m{i}", other) for i, other in enumerate(others)]
    of_another = method("deep", 40, info=PROBE)
    page = page_of(method("mine", target), *of_its_kind, of_another)
    assert flags_of(page) == ([("mine", "lead", lead)] if lead else [])


def test_configs_of_one_method_do_not_vouch_for_each_other() -> None:
    methods = [method("mine", 80), method("mine+long", 81), method("other", 62)]
    page = page_of(*methods, configs={"mine+long": "mine"})
    assert flags_of(page) == [("mine+long", "lead", 19.0), ("mine", "lead", 18.0)]
    assert flags_of(page, reviewed=("mine",)) == [("mine+long", "lead", 19.0)]


def test_two_seeds_with_equal_counts_are_flagged_unless_all_images_are_drawn() -> None:
    mine = method("mine", 62, step=0)
    other = method("other", 63)
    page = page_of(mine, other)
    assert flags_of(page) == [("mine", "seeds", 0.0)]
    assert flags_of(page, reviewed=("mine",)) == []
    sentence = "MINE: seeds 1 and 2 have the same counts in every row."
    assert list_flags(page) == {"mine": [sentence]}
    rows = mine.rows.assign(shots=ALL_SHOTS).astype(mine.rows.dtypes)
    assert flags_of(page_of(replace(mine, rows=rows), other)) == []


def test_equal_accuracies_are_no_copy_if_other_counts_differ() -> None:
    mine = method("mine", 62, step=0)
    rows = mine.rows.assign(negative_flips=mine.rows["seed"])
    page = page_of(replace(mine, rows=rows), method("other", 63))
    assert flags_of(page) == []
    # One row is not equal.
    correct = mine.rows["correct"].copy()
    correct.iloc[-1] += 1
    page = page_of(replace(mine, rows=mine.rows.assign(correct=correct)), method("other", 63))
    assert flags_of(page) == []


def test_an_accuracy_above_the_probe_with_all_images_is_flagged() -> None:
    probe = method("linear_probe", 63, source=70, info=PROBE)
    rows = probe.rows.assign(shots=ALL_SHOTS).astype(probe.rows.dtypes)
    both = replace(probe, rows=pd.concat([method("linear_probe", 63, info=PROBE).rows, rows]))
    methods = [method("mine", 63, source=71), method("other", 63, source=69), both]
    assert flags_of(page_of(*methods)) == [("mine", "probe", 70.5)]
    missing = both.rows[(both.rows["task"] != "f") | (both.rows["shots"] == 4)]
    assert flags_of(page_of(*methods[:2], replace(both, rows=missing))) == []


def test_pages_and_the_terminal_show_flags_until_the_suite_card_names_the_method() -> None:
    page = page_of(method("coop", 80), method("kgcoop", 64))
    where = "COOP, Old model → New model"
    why = "the gain is 16.0 points above that of the best of its kind, KGCOOP"
    assert list_flags(page) == {"coop": [f"{where}: {why}."]}
    reviewed = with_card(page, reviewed={"coop": "run again on another machine"})
    for shown, expected in ((page, True), (reviewed, False)):
        texts = [render_method_pages([shown])["coop"], render_suite(shown, {})]
        console = Console(file=StringIO(), width=200)
        print_flags(console, shown, ["coop"])
        texts.append(console.file.getvalue())  # type: ignore[attr-defined]
        for text in texts:
            assert ("Implausible until a maintainer has looked" in text) is expected
            assert ("the gain is 16.0 points above" in text) is expected
    others = Console(file=StringIO())
    print_flags(others, page, ["kgcoop"])
    assert others.file.getvalue() == ""  # type: ignore[attr-defined]


@pytest.mark.slow
def test_no_committed_result_is_implausible() -> None:
    for page in published_pages(ResultFiles(REPOSITORY)):
        for suite in (page, *page.sections):
            assert list_flags(suite) == {}, suite.card.name
