"""Sections between markers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compatbench.errors import CompatbenchError
from compatbench.pages.markdown import fill_section, find_sections

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
