"""Markdown: no text becomes markup, numbers have one form, sections stand between markers."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import (
    COOP,
    TWO_BY_TWO,
    flat,
    lines_of,
    make_method,
    make_page,
    make_row,
    render_sections,
    through_words,
    with_card,
)
from markdown_it import MarkdownIt

from compatbench.errors import CompatbenchError
from compatbench.messages import join_words, one_line
from compatbench.results.estimate import Interval
from compatbench.tables.markdown import escape, fill_section, table
from compatbench.tables.numbers import bounds, percent, signed, with_bounds, with_interval
from compatbench.tables.pages.leaderboard import render_leaderboard, render_suite
from compatbench.tables.suite_page import SuitePage

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def test_bounds_of_a_difference_show_on_which_side_of_zero_they_are() -> None:
    assert with_bounds(Interval(-0.3, -0.6, -0.01, 8)) == "-0.3 (-0.6 to -0.01)"
    row = {"gain": 0.0, "gain_low": -0.003, "gain_high": 0.0}
    assert with_interval(row, "gain") == "0.0 (-0.003 to 0.0)"
    # An accuracy has no side.
    assert bounds(Interval(0.3, 0.01, 0.6, 8)) == "0.0 to 0.6"


def test_the_last_of_several_words_follows_an_and() -> None:
    assert join_words([]) == ""
    assert join_words(["a"]) == "a"
    assert join_words(["a", "b"]) == "a and b"
    assert join_words(["a", "b", "c"]) == "a, b and c"


@given(st.text("ab|*\n", max_size=40))
def test_a_section_is_filled_and_nothing_else_is_touched(body: str) -> None:
    names = ("layers", "depth")
    page = "# Page\n" + "".join(
        f"before {name}\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n" for name in names
    )
    for name in names:
        begin = f"<!-- {name}:begin -->\n"
        filled = fill_section(page, name, body)
        assert filled == page.replace(f"{begin}old\n", f"{begin}{body.strip()}\n")
        assert fill_section(filled, name, body) == filled


@pytest.mark.parametrize(
    "page",
    [
        "<!-- depth:begin -->\n",
        "<!-- depth:end -->\n<!-- depth:begin -->\n",
        2 * "<!-- depth:begin -->\n<!-- depth:end -->\n",
    ],
)
def test_unpaired_markers_are_refused(page: str) -> None:
    message = "needs '<!-- depth:begin -->' once, and '<!-- depth:end -->' once below it"
    with pytest.raises(CompatbenchError, match=message):
        fill_section(page, "depth", "")


@pytest.mark.parametrize("text", ["http://x.y", "www.x.y", "WWW.x.y", "ftp://x.y", "a@x.y"])
def test_bare_addresses_do_not_become_links_on_github(text: str) -> None:
    assert escape(text) != text
    assert not re.search(r"(?<!\\)://|www\.|\S@\S", escape(text), re.IGNORECASE)


@given(st.text(max_size=30))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    (block,) = MARKDOWN.parse(f"x {escape(text)} x")[1:2]
    assert all(child.type == "text" for child in block.children or [])
    shown = "".join(child.content for child in block.children or [])
    assert shown.replace(" ", "") == f"x{one_line(text)}x".replace(" ", "")
    alone = MARKDOWN.parse(escape(text))
    assert [token.type for token in alone] in ([], ["paragraph_open", "inline", "paragraph_close"])
    row = MARKDOWN.parse("\n".join(table(["a", "b"], [[escape(text), "end"]])))
    assert [token.content for token in row if token.type == "inline"][-1] == "end"


def test_numbers_are_shown_with_one_decimal_and_no_negative_zero() -> None:
    shown = [percent(value) for value in (None, 45.22, 100.0, -0.01)]
    assert shown == ["–", "45.2", "100.0", "0.0"]
    assert [signed(value) for value in (None, 3.16, -0.04, -2.0)] == ["–", "+3.2", "0.0", "-2.0"]


def kinds(text: str) -> list[str]:
    """The markup of a page: its tokens without what they hold."""
    tokens = [one for token in MARKDOWN.parse(text) for one in (token, *(token.children or []))]
    return [one.type for one in tokens if not one.type.startswith("text")]


@cache
def markup_with(text: str) -> list[list[str]]:
    """The markup of the pages of a suite in which every text is this one."""
    page = hostile_page(text)
    return [*map(kinds, (render_leaderboard([page]), render_suite(page), render_sections(page)))]


INJECTIONS = [
    "a | b", "<script>x</script>", "[x](http://x)", "![x](y)", "`x`", "**x**", "_x_ __y__", "~~x~~",
    "# x", "> x", "- x", "1. x", "---", "a\n\n# b", "x\\", "&lt;", "<http://x>", "[x]: http://x",
    "x\u2028y", "\u202ex", "`", "|", "\\|", "]", "[^1]", "$x$", "~~~", "```", "=", "a\r| b |\r",
]  # fmt: skip


def hostile_page(text: str) -> SuitePage:
    info = replace(COOP, title=text)
    rows = lines_of(flat(info, 60, 50))
    rows[0] = make_row(None, status="failed", reason=text)
    rows[-1] = make_row(
        None, task="dogs", seed=2, backbone="new", status="not transferable", reason=text
    )
    differs = {f"{text}!": (text, [text])}
    config = flat(replace(info, name="coop+config"), 60, 50)
    page = make_page(
        make_method(info, rows, differs=differs, provenance={text: (text,)}),
        replace(config, config={f"{text}!": text}),
        through_words(flat(info, 60, 50)),
        tasks={"cats": text, "dogs": text},
        backbones={"old": text, "new": text},
        expected=replace(TWO_BY_TWO, shots=(4, 16), retrained=True),
        groups={text: (("old", "new"), ("old", "new"))},
        paths=(("old", "new"),),
        configs={"coop+config": "coop"},
    )
    page = with_card(page, title=text, note=text)
    plain = replace(page, groups={}, paths=(), configs={}, expected=TWO_BY_TWO)
    return replace(page, sections=(page, plain))


@pytest.mark.parametrize("text", INJECTIONS)
def test_no_file_or_card_can_inject_markup(text: str) -> None:
    assert markup_with(text) == markup_with("plain")
