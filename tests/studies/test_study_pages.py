"""The committed pages have every section, and show what the committed results give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from compatbench.data.cards import suite_cards
from compatbench.pages.marked_sections import fill_section, find_sections
from compatbench.pages.publish import suite_page
from compatbench.pages.suite_page import SuitePage
from compatbench.results.measures import harmonic_mean
from compatbench.results.store import MethodResults, SuiteResults
from compatbench.studies.aligned_gains import compare_aligned, study_aligned
from compatbench.studies.claims import study_claims
from compatbench.studies.study_pages import CAPTIONS, SECTIONS
from compatbench.studies.study_report import records

REPOSITORY = Path(__file__).parents[2]
MINI = suite_cards.read("mini")
PAGES = {
    name: (REPOSITORY / "docs" / f"{name}.md").read_text(encoding="utf-8")
    for name in ("analysis", "alignment")
}
PAIR = ("mini-clip", "mini-eva-clip-anew")


@pytest.fixture(scope="module")
def page() -> SuitePage:
    return suite_page(MINI, REPOSITORY)


def body(page: str, section: str) -> str:
    return PAGES[page].split(f"<!-- {section}:begin -->\n")[1].split(f"<!-- {section}:end -->")[0]


def test_the_committed_pages_have_every_section_and_its_figure() -> None:
    found = {page: find_sections(text, SECTIONS) for page, text in PAGES.items()}
    assert [*found["analysis"], *found["alignment"]] == list(SECTIONS)
    for page, sections in found.items():
        for name in sections:
            assert "| --" in body(page, name)
            assert (f"]({page}/{name}.svg)" in body(page, name)) == (name in CAPTIONS)
            assert (REPOSITORY / "docs" / page / f"{name}.svg").is_file() == (name in CAPTIONS)


@pytest.mark.slow
def test_the_committed_claims_are_those_of_the_committed_results() -> None:
    text = "\n\n".join(one.markdown() for one in study_claims(MINI, REPOSITORY))
    assert fill_section(PAGES["analysis"], "claims", text) == PAGES["analysis"]


@pytest.mark.slow
def test_the_committed_gains_are_those_of_the_committed_results() -> None:
    picture = body("alignment", "aligned").split("\n\n")[0]
    text = f"{picture}\n\n{study_aligned(MINI, REPOSITORY).markdown()}"
    assert fill_section(PAGES["alignment"], "aligned", text) == PAGES["alignment"]


def test_gains_are_the_means_of_the_rows(page: SuitePage) -> None:
    gains = compare_aligned(page, PAIR, 16)
    assert gains["gain"].is_monotonic_decreasing
    [found] = records(gains[gains["method"] == "gda"])
    accuracy = pd.Series(
        {
            (way, row.task, row.seed, row.backbone): 100 * row.correct / row.total
            for way in ("gda", "gda+aligned")
            for row in page.results.methods[way].rows
            if row.test_set == row.task and row.correct is not None and row.total
        }
    ).unstack()
    source, copied = (accuracy.loc["gda", name] for name in PAIR)
    aligned = accuracy.loc["gda+aligned", PAIR[1]]
    assert found["source"] == pytest.approx(source.mean())
    assert found["copied"] == pytest.approx(copied.mean())
    assert found["aligned"] == pytest.approx(aligned.mean())
    assert found["gain"] == pytest.approx(aligned.mean() - copied.mean())
    assert found["gain_low"] <= found["gain"] <= found["gain_high"]
    both = [harmonic_mean(*pair) for pair in zip(source, aligned, strict=True)]
    assert found["aligned_h"] == pytest.approx(sum(both) / len(both))


def test_a_method_with_a_missing_cell_has_no_mean(page: SuitePage) -> None:
    whole = {name: page.results.methods[name] for name in ("gda", "gda+aligned")}
    assert len(compare_aligned(with_methods(page, whole), PAIR, 16)) == 1
    for name, one in whole.items():
        cut = replace(one, rows=one.rows[1:])
        assert compare_aligned(with_methods(page, whole | {name: cut}), PAIR, 16).empty


def with_methods(page: SuitePage, methods: dict[str, MethodResults]) -> SuitePage:
    return replace(page, results=SuiteResults("mini", methods))
