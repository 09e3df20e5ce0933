"""Sections between marks, and the committed page."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compatbench.cli.claims import read_reports, render_markdown
from compatbench.errors import CompatbenchError
from compatbench.studies.page import SECTIONS, fill_section, marked_sections

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "analysis.md").read_text(encoding="utf-8")


def test_the_committed_page_has_every_section_and_its_figures() -> None:
    assert marked_sections(PAGE) == list(SECTIONS)
    for name in SECTIONS:
        body = PAGE.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
        assert "| --" in body
        if name != "claims":
            assert f"](analysis/{name}.svg)" in body
            assert (REPOSITORY / "docs" / "analysis" / f"{name}.svg").is_file()


def test_the_committed_claims_are_those_of_the_committed_results() -> None:
    body = "\n\n".join(map(render_markdown, read_reports("mini", REPOSITORY)))
    assert fill_section(PAGE, "claims", body) == PAGE


@given(st.sets(st.sampled_from(SECTIONS), min_size=1), st.text("ab|*\n", max_size=40))
def test_a_section_is_filled_and_nothing_else_is_touched(names: set[str], body: str) -> None:
    page = "# Page\n" + "".join(
        f"before {name}\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n"
        for name in sorted(names)
    )
    assert set(marked_sections(page)) == names
    for name in names:
        filled = fill_section(page, name, body)
        assert filled == page.replace(
            f"<!-- {name}:begin -->\nold\n", f"<!-- {name}:begin -->\n{body.strip()}\n"
        )
        assert fill_section(filled, name, body) == filled


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("nothing here\n", "no marks"),
        ("<!-- layers:begin -->\n", "needs '<!-- layers:begin -->' once"),
        ("<!-- claims:end -->\n<!-- claims:begin -->\n", "once below it"),
        (2 * "<!-- depth:begin -->\n<!-- depth:end -->\n", "once"),
    ],
)
def test_marks_that_do_not_pair_are_refused(page: str, message: str) -> None:
    with pytest.raises(CompatbenchError, match=message):
        marked_sections(page)
