"""The figures: what they show, the same bytes from the same results, and how they enter a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from figure_pages import info, long_page, method, small_page
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from synthetic_results import UPGRADE, make_page, with_more

from compatbench.pages.figures import svg
from compatbench.pages.figures.plan import (
    is_current,
    path_lines,
    plan_figures,
    shots_curves,
    zero_shot_accuracies,
)
from compatbench.pages.figures.ranking_figures import named_methods, pareto_front
from compatbench.pages.figures.style import place_labels
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import Expected
from compatbench.results.ranks import Ranked

ALLOWED = {"svg", "defs", "style", "g", "path", "text", "title", "use", "clipPath", "rect"}


def render_all(*pages: SuitePage) -> dict[str, bytes]:
    return {one.name: one.render() for one in plan_figures(pages) if not one.missing}


def test_shots_upgrades_sections_and_paths_have_figures_of_their_own() -> None:
    walk = replace(long_page(), name="walk", paths=(("old", "new", "other"),))
    kinds = ("scatter", "matrix", "ranks", "pareto")
    names = [one.name for one in plan_figures([small_page(), walk]) if not one.missing]
    assert names == [
        *(f"tiny-{kind}-1" for kind in kinds),
        *(f"walk-{kind}-2" for kind in kinds),
        *("walk-shots-1", "walk-shots-2", "walk-decay-1"),
    ]


def test_what_cannot_be_drawn_says_why() -> None:
    alone = make_page(method(info("coop"), 60, 40))
    missing = {d.section: d.missing for d in plan_figures([alone]) if d.missing}
    assert missing == {
        "ranks": "the test needs three methods with all of their cells, and two datasets; "
        "there are 1 and 2"
    }
    nothing = replace(alone, expected=replace(alone.expected, seeds=(1, 2, 3)))
    assert all(d.missing for d in plan_figures([nothing]) if d.section != "matrix")


def test_of_many_methods_the_best_are_drawn_and_the_heading_says_so() -> None:
    many = [method(info(f"m{i:02}"), 30 + i // 2, 30) for i in range(60)]
    page = make_page(*many, method(info("floor", depth="none"), 1, 1))
    scatter, matrix, ranks, pareto = plan_figures([page])
    assert [len(one.shown[0]) for one in (scatter, matrix, ranks, pareto)] == [51] * 4
    assert scatter.heading == (
        "Old model → New model, 4 shots, the 50 best by each transfer and zero-shot, out of 61"
    )
    assert {"m59", "floor"} <= {row.title for row in scatter.shown[0]}
    assert "out of" not in plan_figures([make_page(*many[:50])])[0].heading


@pytest.mark.slow
def test_few_methods_and_equal_ones_can_be_drawn() -> None:
    same = [method(info(f"m{i}"), 50, 50, parameters=0, seconds=0) for i in range(3)]
    page = make_page(*same, expected=Expected(("cats",), (4,), (1,), (UPGRADE,)))
    assert len(render_all(page)) == 3
    lost = with_more(page, method(info("lost"), 0, -10))
    assert len(render_all(lost)) == 3


def test_the_digest_tells_old_data_from_another_drawing() -> None:
    first, second = (
        plan_figures([page])[0].render()
        for page in (small_page(), with_more(small_page(), method(info("new"), 55, 55)))
    )
    assert is_current(first, first)
    assert not is_current(first, second)
    assert not is_current(first.rpartition(b"<!--")[0], first)
    # By the same matplotlib, it is what it draws, or was changed by hand.
    redrawn = first.replace(b"fill: none", b"fill:none")
    assert not is_current(redrawn, first)
    older = re.sub(rb"by matplotlib \S+", b"by matplotlib 3.8.0", redrawn)
    assert is_current(older, first)
    assert not is_current(older, second)


@pytest.mark.slow
def test_only_the_figure_of_costs_changes_with_the_times() -> None:
    new = (method(info("new"), 55, 55, seconds=seconds) for seconds in (0.1, 5.0))
    fast, slow = (render_all(with_more(small_page(), one)) for one in new)
    assert {name for name in fast if fast[name] != slow[name]} == {"tiny-pareto-1"}


def drawn() -> bytes:
    with svg.svg_style("report"):
        figure = Figure((3, 2))
        axes = figure.subplots()
        axes.plot([0.123456, 7], [3.1, 2.98765432], "o-", gid=svg.hover("T <&> 1.2345"))
        axes.set_title("1.23456789 <b>")
        return svg.render_svg(figure)


def test_tidying_moves_nothing_that_can_be_seen() -> None:
    old, new = map(ElementTree.fromstring, (drawn(), svg.compact_svg(drawn(), "L")))
    lines = [" ".join(e.attrib["d"] for e in one.iter(f"{{{svg.SVG}}}path")) for one in (old, new)]
    before, after = ([float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", line)] for line in lines)
    assert len(before) > 20
    assert after == pytest.approx(before, abs=0.0051)
    texts = [[e.text for e in root.iter(f"{{{svg.SVG}}}text")] for root in (old, new)]
    assert texts[0] == texts[1]
    assert "1.23456789 <b>" in texts[1]
    assert [e.text for e in new.iter(f"{{{svg.SVG}}}title")] == ["T <&> 1.2345"]
    assert len(svg.compact_svg(drawn(), "L")) < 0.6 * len(drawn())


def test_every_reference_in_the_page_finds_its_element() -> None:
    markup, sheet = svg.inline_svg(svg.compact_svg(drawn(), "L"), "f7")
    ids = re.findall(r' id="([^"]+)"', markup)
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', markup)
    assert references
    assert set(references) <= set(ids)
    assert len(set(ids)) == len(ids)
    classes = set(re.findall(r'class="([^"]+)"', markup)) - {"hover"}
    assert classes <= set(re.findall(r'^\[id="f7"\] \.(\w+)\{', sheet, re.MULTILINE))
    assert "<style" not in markup
    assert not any(colour in sheet for colour in svg.COLOURS.values())


@pytest.mark.slow
@settings(max_examples=15)
@given(st.lists(st.tuples(*[st.integers(0, 10)] * 2), min_size=2, max_size=6, unique=True))
def test_labels_stay_inside_and_off_each_other_where_there_is_room(tenths) -> None:
    points = [(x / 10, y / 10) for x, y in tenths]
    with svg.svg_style("report"):
        figure = Figure((6, 6))
        axes = figure.subplots()
        axes.set_xlim(-0.2, 1.2)
        axes.set_ylim(-0.2, 1.2)
        place_labels(axes, [(x, y, f"L{i}") for i, (x, y) in enumerate(points)], points)
        boxes = [text.get_window_extent() for text in axes.texts]
    frame = axes.get_window_extent()
    assert len(boxes) == len(points)
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert not any(box.overlaps(other) for other in boxes[:i])


def rows_of(page: SuitePage) -> dict[str, Ranked]:
    return {row.title: row for row in page.all_ranks(UPGRADE, 4)}


def test_zero_shot_accuracies_do_not_depend_on_the_method() -> None:
    assert zero_shot_accuracies(list(rows_of(small_page()).values())) == (40, 60)
    assert zero_shot_accuracies([rows_of(small_page())["CoOp"]]) == (40, 60)
    assert zero_shot_accuracies(list(rows_of(make_page()).values())) is None


def test_curves_have_a_place_for_every_number_of_shots() -> None:
    curves = shots_curves(long_page(), UPGRADE)
    half = next(one for one in curves if one.title == "Half done")
    assert half.source == (None, 55)
    complete = [one.h[-1] for one in curves if one.h[-1] is not None]
    assert complete == sorted(complete, reverse=True)


def test_a_path_has_the_gain_over_every_models_own_zero_shot() -> None:
    lines = path_lines(long_page(), ("old", "new", "other"))
    first = next(one for one in lines if one.title == "Method 00")
    # Correct are 45 of 100 on the source and 65 on both targets; zero-shot are 40, 60 and 50.
    assert first.gains == (5, 5, 15)
    assert "Half done" not in {one.title for one in lines}
    assert "Method 03 (words)" in {one.title for one in lines}


def test_the_front_the_ends_and_the_founding_papers_method_are_named() -> None:
    founding, both = info("m90", "Own", paper="arXiv:2412.20895"), ("new", "other")
    page = with_more(long_page(), method(founding, 48, 50, targets=both, shots=(1, 4)))
    rows = [row for row in rows_of(page).values() if row.value("h") is not None]
    assert {"Zero-shot", "Method 03 (words)", "Own"} < {row.title for row in named_methods(rows)}
    small = list(rows_of(small_page()).values())
    assert set(named_methods(small)) == set(small)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(pairs: Sequence[tuple[int, int]]) -> None:
    row = rows_of(small_page())["CoOp"]
    points = [
        (row, float(cost), float(h)) for cost, h in sorted(pairs, key=lambda p: (p[0], -p[1]))
    ]
    naive = {
        (cost, h)
        for cost, h in pairs
        if not any(c <= cost and other >= h and (c, other) != (cost, h) for c, other in pairs)
    }
    assert {(cost, h) for _, cost, h in pareto_front(points)} == naive
