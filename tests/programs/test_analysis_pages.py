"""docs/analysis.md has every section, made from the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest
from analysis_pages import PAGE, SECTIONS, write_sections

REPOSITORY = Path(__file__).parents[2]


def body(section: str) -> str:
    """Return the text of the committed page between the markers of a section."""
    after = PAGE.read_text(encoding="utf-8").split(f"<!-- {section}:begin -->\n")[1]
    return after.split(f"<!-- {section}:end -->")[0]


def test_the_committed_page_has_every_section_and_its_figure() -> None:
    for name in SECTIONS:
        assert "| --" in body(name)
        drawn = f"](analysis/{name}.svg)" in body(name)
        assert (PAGE.with_suffix("") / f"{name}.svg").is_file() == drawn


@pytest.mark.slow
def test_a_section_written_anew_equals_the_committed_one(tmp_path: Path) -> None:
    page = tmp_path / "why.md"
    page.write_text("# Why\n<!-- claims:begin -->\n<!-- claims:end -->\nEnd\n")
    assert [*write_sections(page, out=REPOSITORY)] == ["claims"]
    written = f"# Why\n<!-- claims:begin -->\n{body('claims')}<!-- claims:end -->\nEnd\n"
    assert page.read_text(encoding="utf-8") == written
