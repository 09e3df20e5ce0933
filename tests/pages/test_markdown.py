"""Markdown: no text becomes markup, numbers have one form, sections stand between markers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from compatbench.errors import CompatbenchError, one_line
from compatbench.pages.markdown import (
    escape,
    fill_section,
    find_sections,
    percent,
    signed,
    table,
)

MARKDOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])
NAMES = ("layers", "depth", "claims")


@given(st.sets(st.sampled_from(NAMES), min_size=1), st.text("ab|*\n", max_size=40))
def test_a_section_is_filled_and_nothing_else_is_touched(names: set[str], body: str) -> None:
    page = "# Page\n" + "".join(
        f"before {name}\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n"
        for name in sorted(names)
    )
    assert set(find_sections(page, NAMES)) == names
    for name in names:
        filled = fill_section(page, name, body)
        assert filled == page.replace(
            f"<!-- {name}:begin -->\nold\n", f"<!-- {name}:begin -->\n{body.strip()}\n"
        )
        assert fill_section(filled, name, body) == filled


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("nothing here\n", "no markers"),
        ("<!-- layers:begin -->\n", "needs '<!-- layers:begin -->' once"),
        ("<!-- claims:end -->\n<!-- claims:begin -->\n", "once below it"),
        (2 * "<!-- depth:begin -->\n<!-- depth:end -->\n", "once"),
    ],
)
def test_markers_that_are_no_pair_are_refused(page: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        find_sections(page, NAMES)


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
    assert [percent(value) for value in (None, 45.22, 100.0, -0.01)] == [
        "–",
        "45.2",
        "100.0",
        "0.0",
    ]
    assert [signed(value) for value in (None, 3.16, -0.04, -2.0)] == ["–", "+3.2", "0.0", "-2.0"]
