"""The committed pages have every section, and show what the committed results give."""

from __future__ import annotations

from pathlib import Path

import pytest
from analysis_pages import SECTIONS, write_sections
from words_gains import compare_transfers, study_gains

from compatbench.data.cards import suite_cards
from compatbench.tables.markdown import fill_section
from compatbench.tables.suite_page import SuitePage, read_suite_page
from compatbench.tables.table import records

REPOSITORY = Path(__file__).parents[2]
MINI = suite_cards.read("mini")
PAGES = {
    name: (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("analysis", "alignment")
}
PAIR = ("mini-clip", "mini-eva-clip-anew")


@pytest.fixture(scope="module")
def page() -> SuitePage:
    return read_suite_page(MINI, REPOSITORY)


def body(page: str, section: str) -> str:
    return PAGES[page].split(f"<!-- {section}:begin -->\n")[1].split(f"<!-- {section}:end -->")[0]


def test_the_committed_pages_have_every_section_and_its_figure() -> None:
    found = {
        page: [name for name in SECTIONS if f"<!-- {name}:" in text] for page, text in PAGES.items()
    }
    assert [*found["analysis"], *found["alignment"]] == list(SECTIONS)
    for page, sections in found.items():
        for name in sections:
            run = "| --" in body(page, name)
            assert run or "has not been run" in body(page, name)
            drawn = f"]({page}/{name}.svg)" in body(page, name)
            assert (REPOSITORY / "docs" / page / f"{name}.svg").is_file() == drawn


@pytest.mark.slow
def test_the_committed_gains_are_those_of_the_committed_results() -> None:
    picture = body("alignment", "gains").split("\n\n")[0]
    gains = f"{picture}\n\n{study_gains(MINI, REPOSITORY).markdown()}"
    assert fill_section(PAGES["alignment"], "gains", gains) == PAGES["alignment"]


def test_gains_are_the_means_of_the_rows(page: SuitePage) -> None:
    gains = compare_transfers(page, PAIR, 16)
    assert gains["gain"].is_monotonic_decreasing
    [found] = records(gains[gains["method"] == "gda"])
    rows = page.results.frame.query("method == 'gda' and test_set == task")
    rows = rows[~rows["task"].isin(page.expected.development)]
    accuracy = rows.set_index(["transfer", "task", "seed", "backbone"])["accuracy"].unstack()
    source, copied = (accuracy.loc["copied", name] for name in PAIR)
    words = accuracy.loc["words", PAIR[1]]
    assert found["source"] == pytest.approx(source.mean())
    assert found["copied"] == pytest.approx(copied.mean())
    assert found["words"] == pytest.approx(words.mean())
    assert found["gain"] == pytest.approx(words.mean() - copied.mean())
    assert found["gain_low"] <= found["gain"] <= found["gain_high"]


@pytest.mark.slow
def test_one_section_of_a_page_is_written_as_it_was_committed(tmp_path: Path) -> None:
    page = tmp_path / "why.md"
    page.write_text("# Why\n<!-- claims:begin -->\n<!-- claims:end -->\nEnd\n")
    assert [*write_sections(page, out=REPOSITORY)] == ["claims"]
    written = (
        f"# Why\n<!-- claims:begin -->\n{body('analysis', 'claims')}<!-- claims:end -->\nEnd\n"
    )
    assert page.read_text(encoding="utf-8") == written
