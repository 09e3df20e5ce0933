"""The figures: what they show, and the same bytes from the same results."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from made_up_suites import hostile_page, info, long_page, method, small_page, states_page
from synthetic_results import UPGRADE, make_page, with_card, with_more

from compatbench.results.expected import Expected
from compatbench.tables.figures.kinds import list_kinds
from compatbench.tables.figures.plan import plan_figures
from compatbench.tables.figures.render import render_svg_figure
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.figures.values import dodge_labels
from compatbench.tables.suite_page import SuitePage


def render_all(*pages: SuitePage) -> dict[str, bytes]:
    return {one.name: one.render() for one in plan_figures(pages) if not one.missing}


def test_a_suite_that_measures_the_same_adds_its_own_figures_only() -> None:
    walk = replace(with_card(long_page(), name="walk"), paths=(("old", "new", "other"),))
    names = [one.name for one in plan_figures([small_page(), walk]) if one.suite == "walk"]
    kinds = ("scatter", "matrix", "size", "time")
    assert names == [
        *(f"walk-{kind}-2" for kind in kinds),
        *("walk-shots-1", "walk-shots-2", "walk-decay-1"),
    ]


def test_without_a_complete_method_every_figure_says_why_it_is_not_drawn() -> None:
    page = make_page(method(info("coop"), 60, 40))
    nothing = replace(page, expected=replace(page.expected, seeds=(1, 2, 3)))
    assert all(one.missing for one in plan_figures([nothing]) if one.section != "matrix")


def test_of_many_methods_the_best_are_drawn_and_the_heading_says_so() -> None:
    many = [method(info(f"m{i:02}"), 30 + i // 2, 30) for i in range(60)]
    page = make_page(*many, method(info("floor", depth="none"), 1, 1))
    figures = plan_figures([page])
    assert [len(one.shown.values) for one in figures] == [51] * 4
    assert figures[0].heading == (
        "Old model → New model, 4 shots, the 50 best by each transfer and zero-shot, out of 61"
    )
    assert {"m59", "floor"} <= {one["title"] for one in figures[0].shown.values}
    assert "out of" not in plan_figures([make_page(*many[:50])])[0].heading


@pytest.mark.slow
def test_equal_methods_and_one_that_lost_everything_can_be_drawn() -> None:
    same = [method(info(f"m{i}"), 50, 50, parameters=0, seconds=0) for i in range(3)]
    page = make_page(*same, expected=Expected(("cats",), (4,), (1,), (UPGRADE,)))
    assert len(render_all(with_more(page, method(info("lost"), 0, -10)))) == 4


@pytest.mark.slow
def test_only_the_figure_of_seconds_changes_with_the_times() -> None:
    new = (method(info("new"), 55, 55, seconds=seconds) for seconds in (0.0012, 5.0))
    fast, slow = (render_all(with_more(small_page(), one)) for one in new)
    assert {name for name in fast if fast[name] != slow[name]} == {"tiny-time-1"}
    assert b">0.001<" in fast["tiny-time-1"]  # short times keep their digits
    assert b'0.0012 s"' in fast["tiny-time-1"]


@pytest.mark.slow
def test_every_kind_is_drawn_with_all_its_marks_and_texts_stay_texts() -> None:
    walk = replace(long_page(), paths=(("old", "new", "other"),))
    marks = {"scatter": 14, "size": 14, "time": 14, "decay": 13 * 3, "shots": None}
    drawn = {one.section: (one, one.render()) for one in reversed(plan_figures([walk]))}
    assert drawn.keys() == {*marks, "matrix"}
    for section, (planned, svg) in drawn.items():
        root = ElementTree.fromstring(svg)
        described = root.findall(".//*[@aria-roledescription='point']")
        assert marks.get(section) in (None, len(described)), section
        assert all(one["title"] for one in planned.shown.values)
        assert planned.render() == svg
    texts = [one.text for one in ElementTree.fromstring(drawn["matrix"][1]).iter() if one.text]
    assert {"Method 03", "Cats", "Mean", "+5.0"} <= set(texts)
    hostile = next(one for one in plan_figures([hostile_page()]) if one.section == "size")
    tags = {one.tag.rpartition("}")[2] for one in ElementTree.fromstring(hostile.render()).iter()}
    known = ("svg", "style", "rect", "g", "path", "text", "tspan", "line", "defs", "clipPath")
    assert tags <= {*known}


@pytest.mark.slow
def test_small_gains_keep_their_sign() -> None:
    gains = {"a": -0.6, "b": -0.04, "c": 0.0, "d": 0.6, "e": None, "f": -10.0}
    record = {"title": "One", "kind": "deep", "gains": [*gains.values()]}
    svg = render_svg_figure(list_kinds()["matrix"], Shown([record], {"sets": [*gains]}), "gains")
    root = ElementTree.fromstring(svg)
    texts = [one.text for one in root.iter("{http://www.w3.org/2000/svg}text") if one.text]
    assert [one for one in texts if one not in ("One", *gains) and one.strip()] == [
        *("−0.6", "0.0", "0.0", "+0.6", "–", "−10.0")
    ]


def test_labels_keep_their_distance_and_their_order() -> None:
    places = dodge_labels([50.0, 50.5, 40.0, 50.2], 1.0)
    assert sorted(range(4), key=places.__getitem__) == [2, 0, 3, 1]
    assert min(b - a for a, b in pairwise(sorted(places))) >= 0.99
    assert dodge_labels([1.0, 9.0], 1.0) == [1.0, 9.0]


def test_a_file_is_dark_where_the_reader_asks_for_it() -> None:
    figure = plan_figures([states_page()])[0]
    svg = figure.render().decode()
    assert figure.said in svg  # which methods have no mark
    [style] = re.findall("<style>(.*?)</style>", svg)
    assert style.startswith("@media (prefers-color-scheme:dark){")
    light = {*re.findall(r'(?:fill|stroke)="(#[0-9a-f]{6})"', svg.replace(style, ""))}
    assert light
    assert {colour for colour in light if f'="{colour}"]' not in style} == set()
