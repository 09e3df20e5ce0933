"""The figures: the same bytes from the same results, and nothing lost on the way to the page."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from report_pages import HOSTILE, hostile_page, info, long_page, method, small_page, with_more

from compatbench.pages.report.canvas import is_current, new_figure, report_style
from compatbench.pages.report.figures import (
    main_figures,
    plan_drawings,
    render_figures,
    write_figures,
)
from compatbench.pages.report.inline import VARIABLES, inline_svg
from compatbench.pages.report.labels import place_labels
from compatbench.pages.report.tidy import SVG, XLINK, tidy_svg
from compatbench.pages.figures.svg import render_svg
from compatbench.results.measures import Expected


@pytest.fixture(scope="module")
def figures() -> dict[Path, bytes]:
    return render_figures([small_page()])


def names(pages) -> list[str]:
    return [one.name for one in plan_drawings(pages) if not one.missing]


def test_the_files_are_named_by_suite_and_upgrade(figures: dict[Path, bytes]) -> None:
    assert list(figures) == [
        Path("results", "figures", f"tiny-{part}-1.svg")
        for part in ("scatter", "matrix", "ranks", "pareto")
    ]
    assert main_figures(small_page()) == {
        part: f"tiny-{part}-1.svg" for part in ("scatter", "matrix", "ranks")
    }


def test_the_same_results_give_the_same_bytes(figures: dict[Path, bytes]) -> None:
    assert render_figures([small_page()]) == figures


def test_another_process_gives_the_same_bytes(figures: dict[Path, bytes]) -> None:
    code = (
        "import sys; sys.path[:0] = ['tests', 'tests/pages']\n"
        "from report_pages import small_page\n"
        "from compatbench.pages.report.figures import plan_drawings\n"
        "sys.stdout.buffer.write(plan_drawings([small_page()])[0].render())"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "7", "PATH": ""},
        capture_output=True,
        check=True,
    ).stdout
    assert output == next(iter(figures.values()))


def test_only_what_has_changed_is_written(tmp_path: Path) -> None:
    page = small_page()
    written = write_figures([page], tmp_path)
    before = {path: path.stat().st_mtime_ns for path in written}
    assert {path: path.read_bytes() for path in written} == written
    write_figures([page], tmp_path)
    assert {path: path.stat().st_mtime_ns for path in written} == before


def test_shots_and_upgrades_have_figures_of_their_own() -> None:
    assert names([long_page()]) == [
        *(f"tiny-{part}-{n}" for n in (1, 2) for part in ("scatter", "matrix", "ranks", "pareto")),
        "tiny-shots-1",
        "tiny-shots-2",
    ]


def test_a_suite_that_measures_the_same_upgrade_adds_only_what_is_new() -> None:
    again = replace(long_page(), name="again")
    again = replace(again, expected=replace(again.expected, upgrades=(("old", "new"),)))
    assert names([long_page(), again])[-1] == "again-shots-1"
    assert sum(name.startswith("again") for name in names([long_page(), again])) == 1


def test_the_sections_of_a_suite_and_its_paths_have_figures() -> None:
    walk = replace(long_page(), name="walk", paths=(("old", "new", "other"),))
    assert names([replace(small_page(), sections=(walk,))])[-4:] == [
        "walk-shots-1", "walk-shots-2", "walk-decay-1", "walk-steps-1",
    ]  # fmt: skip


def test_what_cannot_be_drawn_says_why() -> None:
    one = small_page(results=replace(small_page().results, methods={}))
    assert plan_drawings([one]) == []
    alone = with_more(one, method(info("coop"), 60, 40))
    missing = {d.section: d.missing for d in plan_drawings([alone]) if d.missing}
    assert missing == {
        "ranks": "the test needs three methods with all of their cells, and two datasets; "
        "here are 1 and 2"
    }
    assert "ranks" not in main_figures(alone)
    nothing = replace(alone, expected=replace(alone.expected, seeds=(1, 2, 3)))
    assert all(d.missing for d in plan_drawings([nothing]) if d.section != "matrix")


def test_few_methods_and_equal_ones_can_be_drawn() -> None:
    same = [method(info(f"m{i}"), 50, 50, parameters=0, seconds=0) for i in range(3)]
    page = small_page(results=replace(small_page().results, methods={}))
    page = with_more(page, *same)
    page = replace(page, expected=Expected(("cats",), (4,), (1,), (("old", "new"),)))
    assert len(render_figures([page])) == 3
    lost = with_more(page, method(info("lost"), 0, -10))
    assert len(render_figures([lost])) == 3


def test_titles_are_text_whatever_they_hold() -> None:
    for svg in render_figures([hostile_page()]).values():
        root = ElementTree.fromstring(svg)
        tags = {element.tag.removeprefix(f"{{{SVG}}}") for element in root.iter()}
        assert tags <= {
            "svg",
            "defs",
            "style",
            "g",
            "path",
            "text",
            "title",
            "use",
            "clipPath",
            "rect",
        }
        shown = "".join(root.itertext())
        assert HOSTILE[0] in shown
        assert "$\\frac{ $x^$ %s {0}" in shown
        assert not any(name.startswith("on") for e in root.iter() for name in e.attrib)


def test_the_digest_tells_old_data_from_another_drawing() -> None:
    first, second = (
        plan_drawings([page])[0].render()
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
    assert not is_current(re.sub(rb"H \d", b"H 9", older), first)


def test_only_the_figure_of_costs_changes_with_the_times() -> None:
    fast, slow = (
        {
            one.section: one.render()
            for one in plan_drawings(
                [with_more(small_page(), method(info("new"), 55, 55, seconds=s))]
            )
            if not one.missing
        }
        for s in (0.1, 5.0)
    )
    assert {section for section, svg in fast.items() if svg != slow[section]} == {"pareto"}
    assert len(fast) > 2


def drawn() -> bytes:
    with report_style():
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.plot([0.123456, 7], [3.1, 2.98765432], "o-", gid="hover-0")
        axes.set_title("1.23456789 <b>")
        return render_svg(figure)


def test_tidying_moves_nothing_that_can_be_seen() -> None:
    old, new = (
        ElementTree.fromstring(drawn()),
        ElementTree.fromstring(tidy_svg(drawn(), ["T"], "L")),
    )
    paths = [
        [
            [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", e.attrib["d"])]
            for e in root.iter(f"{{{SVG}}}path")
        ]
        for root in (old, new)
    ]
    assert len(paths[0]) == len(paths[1]) > 10
    for before, after in zip(*paths, strict=True):
        assert after == pytest.approx(before, abs=0.0051)
    texts = [[e.text for e in root.iter(f"{{{SVG}}}text")] for root in (old, new)]
    assert texts[0] == texts[1]
    assert "1.23456789 <b>" in texts[1]
    assert [e.text for e in new.iter(f"{{{SVG}}}title")] == ["T"]
    assert len(tidy_svg(drawn(), ["T"], "L")) < 0.6 * len(drawn())


def test_every_reference_in_the_page_finds_its_element() -> None:
    markup, sheet = inline_svg(tidy_svg(drawn(), ["T"], "L"), "f7")
    ids = re.findall(r' id="([^"]+)"', markup)
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', markup)
    assert references
    assert set(references) <= set(ids)
    assert len(set(ids)) == len(ids)
    classes = set(re.findall(r'class="([^"]+)"', markup)) - {"hover"}
    assert classes <= set(re.findall(r"^\.(\w+)\{", sheet, re.MULTILINE))
    assert all(name.startswith("f7") for name in (*ids, *classes))
    assert XLINK not in markup
    assert not any(colour in sheet for colour in VARIABLES)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6, unique=True))
def test_labels_stay_inside_and_off_each_other_where_there_is_room(points) -> None:
    with report_style():
        figure = new_figure(6, 6)
        axes = figure.subplots()
        axes.set_xlim(-0.2, 1.2)
        axes.set_ylim(-0.2, 1.2)
        place_labels(axes, [(x, y, f"L{i}") for i, (x, y) in enumerate(points)], points)
        boxes = boxes_of(figure)
    frame = axes.get_window_extent()
    assert len(boxes) == len(points)
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert not any(box.overlaps(other) for other in boxes[:i])


def boxes_of(figure: Figure):
    return [text.get_window_extent() for axes in figure.axes for text in axes.texts]
