"""What the figures show, against figures worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_pages import TASKS, info, long_page, method, small_page, with_more, with_words
from synthetic_results import make_page, through_words

from compatbench.pages.report.data import (
    MethodFigures,
    path_figures,
    real_upgrades,
    shots_figures,
    upgrade_figures,
)
from compatbench.pages.report.pareto import Costed, pareto_front, with_cost
from compatbench.pages.report.scatter import named_methods
from compatbench.results.measures import Expected

UPGRADE = ("old", "new")


def test_a_method_has_its_accuracies_gains_and_costs() -> None:
    data = upgrade_figures(small_page(), UPGRADE, 4)
    coop = next(one for one in data.methods if one.title == "CoOp")
    # On cats 60 and 40, on dogs 70 and 50; the target's zero-shot is 60 on both.
    assert (coop.source, coop.target, coop.gain) == (65, 45, -15)
    assert coop.gains == (-20, -10)
    assert coop.hs == pytest.approx((48, 58.3333))
    assert coop.h == pytest.approx(53.1667, abs=1e-4)
    assert (coop.kind, coop.parameters, coop.seconds) == ("shallow", 3072, 20.0)
    assert data.tasks == ("Cats", "Dogs")
    assert (data.source, data.target) == ("Old model", "New model")


def test_methods_stand_in_the_order_of_the_table() -> None:
    data = upgrade_figures(small_page(), UPGRADE, 4)
    assert [one.title for one in data.methods] == [
        "Tip-Adapter", "CoOp", "Zero-shot", "Linear probe",
    ]  # fmt: skip


def test_zero_shot_is_that_of_the_rows() -> None:
    assert upgrade_figures(small_page(), UPGRADE, 4).zero_shot == (40, 60)
    assert upgrade_figures(make_page(), UPGRADE, 4).zero_shot is None


def test_modules_attached_through_a_map_are_ranked_apart() -> None:
    aligned = through_words(method(info("coop", "CoOp"), 90, 90))
    page = with_words(small_page(), aligned)
    data = upgrade_figures(page, UPGRADE, 4)
    assert [one.title for one in data.methods][-1] == "CoOp + aligned"
    assert data.plain == upgrade_figures(small_page(), UPGRADE, 4).plain
    last = data.methods[-1]
    assert (last.kind, last.base, last.rank) == ("aligned", "CoOp", "1")
    assert data.methods[0].rank == "1"


def test_a_module_made_on_the_target_is_no_upgrade() -> None:
    expected = Expected(TASKS, (4,), (1, 2), (("new", "new"), UPGRADE))
    assert real_upgrades(small_page(expected=expected)) == [UPGRADE]


def test_a_missing_cell_gives_no_figure() -> None:
    page = long_page()
    data = upgrade_figures(page, ("old", "other"), 4)
    half = next(one for one in data.methods if one.title == "Half done")
    assert (half.h, half.target, half.gains) == (None, None, (None, None))
    assert half.source == 55
    assert half not in data.complete


def test_curves_have_a_place_for_every_number_of_shots() -> None:
    data = shots_figures(long_page(), UPGRADE)
    assert data.shots == (1, 4)
    half = next(one for one in data.curves if one.title == "Half done")
    assert half.source == (None, 55)
    assert all(len(one.h) == 2 for one in data.curves)
    complete = [one.h[-1] for one in data.curves if one.h[-1] is not None]
    assert complete == sorted(complete, reverse=True)


def test_a_path_has_the_gain_over_every_models_own_zero_shot() -> None:
    data = path_figures(long_page(), ("old", "new", "other"))
    first = next(one for one in data.lines if one.title == "Method 00")
    # Right are 45 of 100 on the source and 65 on both targets; zero-shot are 40, 60 and 50.
    assert first.gains == (5, 5, 15)
    assert data.left_out == 1
    assert data.backbones == ("Old model", "New model", "Other model")


def test_the_front_and_the_ends_are_named() -> None:
    page = long_page()
    names = {one.title for one in named_methods(upgrade_figures(page, UPGRADE, 4))}
    assert {"Zero-shot", "Method 03 + aligned"} < names
    small = named_methods(upgrade_figures(small_page(), UPGRADE, 4))
    assert {one.title for one in small} == {"Zero-shot", "CoOp", "Tip-Adapter", "Linear probe"}


def test_the_founding_papers_own_method_is_named() -> None:
    own = method(info("m90", "Own", paper="arXiv:2412.20895"), 48, 50, targets=("new", "other"))
    page = with_more(long_page(), own)
    page = replace(page, expected=replace(page.expected, shots=(4,)))
    assert "Own" in {one.title for one in named_methods(upgrade_figures(page, UPGRADE, 4))}


def test_ranks_are_those_of_h_by_dataset() -> None:
    data = upgrade_figures(small_page(), UPGRADE, 4)

    def naive(one: MethodFigures) -> float:
        """The mean over both tasks of how many are better, plus one."""
        h = [[other.hs[task] or 0 for other in data.plain] for task in range(2)]
        own = [one.hs[task] or 0 for task in range(2)]
        return sum(1 + sum(value > own[task] for value in h[task]) for task in range(2)) / 2

    assert data.ranks is not None
    shown = {title: rank for title, _, rank in data.ranks.methods}
    assert shown == {one.title: naive(one) for one in data.plain}
    assert list(shown.values()) == sorted(shown.values())
    # Demšar's table: q of four methods is 2.569; √(4 · 5 / (6 · 2)) of it.
    assert data.ranks.difference == pytest.approx(2.569 * (20 / 12) ** 0.5, abs=0.001)
    assert data.ranks.cliques == ((0, 3),)


def test_costs_are_known_or_left_out() -> None:
    data = upgrade_figures(small_page(), UPGRADE, 4)
    seconds = [(one.title, cost) for one, cost, _ in with_cost(data, "seconds")]
    assert seconds == [
        ("Zero-shot", 0), ("Tip-Adapter", 0.1), ("Linear probe", 1), ("CoOp", 20),
    ]  # fmt: skip
    front = [one.title for one, *_ in pareto_front(with_cost(data, "parameters"))]
    assert front == ["Tip-Adapter"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    blank = MethodFigures("", "deep", "1", 1, 1, 1, 1, (), (), 1, 1)
    points: list[Costed] = [
        (replace(blank, title=str(i)), float(cost), float(h)) for i, (cost, h) in enumerate(pairs)
    ]
    points.sort(key=lambda item: (item[1], -item[2], item[0].title))
    front = {(cost, h) for _, cost, h in pareto_front(points)}
    naive = {
        (cost, h)
        for cost, h in pairs
        if not any(c <= cost and other >= h and (c, other) != (cost, h) for c, other in pairs)
    }
    assert front == naive
