"""The figures: what they show, and the same bytes from the same results."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from made_results import UPGRADE, make_page, through_words, with_card, with_more
from made_up_suites import hostile_page, info, long_page, method, small_page, states_page

from compatbench.results.expected import Expected
from compatbench.tables.figures.charts import FigureData, matrix, scatter
from compatbench.tables.figures.figure_list import PlannedFigure, plan_figures
from compatbench.tables.figures.render import compile_chart, fill_chart, render_chart
from compatbench.tables.figures.values import dodge_labels
from compatbench.tables.suite_page import SuitePage

SVG_TAGS = {"svg", "style", "rect", "g", "path", "text", "tspan", "line", "defs", "clipPath"}


def render_all(*pages: SuitePage) -> dict[str, bytes]:
    return {each.name: each.render() for each in plan_figures(pages) if not each.missing}


def find_figure(page: SuitePage, kind: str) -> PlannedFigure:
    return next(each for each in plan_figures([page]) if each.kind == kind)


def texts_of(svg: bytes) -> list[str]:
    texts = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return [each.text for each in texts if each.text and each.text.strip()]


def test_a_suite_that_measures_the_same_adds_its_own_figures_only() -> None:
    walk = with_card(long_page(), name="walk")
    names = [each.name for each in plan_figures([small_page(), walk]) if each.suite == "walk"]
    assert names == ["walk-scatter-2", "walk-matrix-2", "walk-shots-1", "walk-shots-2"]


def test_without_a_complete_method_a_figure_says_why_it_is_not_drawn() -> None:
    page = make_page(method(info("coop"), 60, 40))
    nothing = replace(page, expected=replace(page.expected, seeds=(1, 2, 3)))
    assert find_figure(nothing, "scatter").missing == "no method has all of its cells yet"
    assert not find_figure(nothing, "matrix").missing


def test_of_many_methods_the_best_are_drawn_and_the_heading_says_so() -> None:
    many = [method(info(f"m{i:02}"), 30 + i // 2, 30) for i in range(60)]
    page = make_page(*many, method(info("floor", depth="none"), 1, 1))
    figures = plan_figures([page])
    assert [len(each.data.rows) for each in figures] == [51, 51]
    assert figures[0].heading == (
        "Old model → New model, 4 shots, the 50 best by each transfer and zero-shot, out of 61"
    )
    assert {"m59", "floor"} <= {row["title"] for row in figures[0].data.rows}
    assert "out of" not in plan_figures([make_page(*many[:50])])[0].heading


def test_scatter_names_the_best_of_each_kind_and_well_known_methods() -> None:
    methods = [
        method(info("best"), 70, 70),
        method(info("coop", "CoOp", "shallow"), 1, 1),  # far beyond the edge
        method(info("first", depth="shallow"), 55, 55),
        method(info("other", depth="shallow"), 54, 54),
        method(info("kgcoop", "KgCoOp", "shallow"), 53, 53),
        method(info("unknown"), 56, 56),
        method(info("zeroshot", "Zero-shot", "none"), 40, 60),
        through_words(method(info("coop", "CoOp", "shallow"), 58, 58)),
        through_words(method(info("kgcoop", "KgCoOp", "shallow"), 57, 57)),
    ]
    rows = find_figure(make_page(*methods), "scatter").data.rows
    assert {row["title"] for row in rows if row["named"]} == {
        "best",
        "first",
        "CoOp",
        "KgCoOp",
        "Zero-shot",
        "CoOp (words)",
    }


def test_zero_shot_has_no_line_outside_of_the_axes() -> None:
    methods = [method(info(f"m{i}"), 60 + i, 60) for i in range(12)]
    page = make_page(*methods, method(info("zeroshot", "Zero-shot", "none"), 35, 55))
    figure = find_figure(page, "scatter")
    assert figure.data.params["zero_source"] < figure.data.params["x0"]
    lines = re.findall(r"<line [^>]*stroke-dasharray[^>]*>", figure.render().decode())
    assert len(lines) == 1


@pytest.mark.slow
def test_equal_methods_and_one_that_lost_everything_can_be_drawn() -> None:
    same = [method(info(f"m{i}"), 50, 50, parameters=0, seconds=0) for i in range(3)]
    page = make_page(*same, expected=Expected(("cats",), (4,), (1,), (UPGRADE,)))
    assert len(render_all(with_more(page, method(info("lost"), 0, -10)))) == 2


@pytest.mark.slow
def test_every_kind_shows_every_method_and_has_the_same_bytes_again() -> None:
    page = long_page()
    scatter_svg = find_figure(page, "scatter").render()
    described = ElementTree.fromstring(scatter_svg).findall(".//*[@aria-roledescription='point']")
    assert len(described) == 14
    assert find_figure(page, "scatter").render() == scatter_svg
    for kind in ("matrix", "shots"):
        figure = find_figure(page, kind)
        assert {row["title"] for row in figure.data.rows} <= {*texts_of(figure.render())}
    assert {"Cats", "Mean", "+5.0"} <= {*texts_of(find_figure(page, "matrix").render())}


@pytest.mark.slow
def test_markup_in_a_title_stays_text() -> None:
    for figure in plan_figures([hostile_page()]):
        root = ElementTree.fromstring(figure.render())
        assert {each.tag.rpartition("}")[2] for each in root.iter()} <= SVG_TAGS


@pytest.mark.slow
def test_small_gains_keep_their_sign() -> None:
    gains = {"a": -0.6, "b": -0.04, "c": 0.0, "d": 0.6, "e": None, "f": -10.0}
    row = {"title": "One", "kind": "deep", "gains": [*gains.values()]}
    data = FigureData([row], {"sets": [*gains]})
    filled = fill_chart(compile_chart(matrix(data.params)), data)
    texts = texts_of(render_chart(filled, "gains"))
    numbers = [text for text in texts if text not in ("One", *gains)]
    assert numbers == ["−0.6", "0.0", "0.0", "+0.6", "–", "−10.0"]


def test_the_site_gets_the_chart_without_rows_and_as_wide_as_its_place() -> None:
    params = find_figure(small_page(), "scatter").data.params
    vega = compile_chart(scatter(params), width="container")
    signals = {signal["name"]: signal for signal in vega["signals"]}
    assert {*params, "narrow", "columns", "kinds"} <= signals.keys()
    assert "containerSize" in str(signals["width"])
    [rows] = [data for data in vega["data"] if data["name"] == "rows"]
    assert rows["values"] == []
    [names] = [mark for mark in vega["marks"] if mark["name"] == "names_marks"]
    assert names["transform"][0]["type"] == "label"


def test_labels_keep_their_distance_and_their_order() -> None:
    places = dodge_labels([50.0, 50.5, 40.0, 50.2], 1.0)
    assert sorted(range(4), key=places.__getitem__) == [2, 0, 3, 1]
    assert min(b - a for a, b in pairwise(sorted(places))) >= 0.99
    assert dodge_labels([1.0, 9.0], 1.0) == [1.0, 9.0]


def test_a_file_is_dark_where_the_reader_asks_for_it() -> None:
    figure = plan_figures([states_page()])[0]
    svg = figure.render().decode()
    assert figure.note in svg  # which methods have no mark
    [style] = re.findall("<style>(.*?)</style>", svg)
    assert style.startswith("@media (prefers-color-scheme:dark){")
    light = {*re.findall(r'(?:fill|stroke)="(#[0-9a-f]{6})"', svg.replace(style, ""))}
    assert light
    assert {colour for colour in light if f'="{colour}"]' not in style} == set()
