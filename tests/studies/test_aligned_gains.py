"""Copied against aligned, from results."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from compatbench.data.cards import suite_cards
from compatbench.results.measures import harmonic_mean, upgrade_pairs
from compatbench.results.store import SuiteResults, read_results
from compatbench.studies.aligned_gains import aligned_gains
from compatbench.studies.alignment_page import SECTIONS, render_gains
from compatbench.studies.page import fill_section, marked_sections

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "alignment.md").read_text(encoding="utf-8")
PAIRS = upgrade_pairs(suite_cards.read("mini").upgrades)


@pytest.fixture(scope="module")
def results() -> SuiteResults:
    return read_results(REPOSITORY / "results" / "mini")


def test_figures_are_the_means_of_the_rows(results: SuiteResults) -> None:
    [found] = [one for one in aligned_gains(results, PAIRS[1], 16) if one.method == "gda"]
    rows = {
        (way, row.backbone, row.task, row.seed): 100 * row.correct / row.total
        for way, methods in (("gda", results.methods), ("gda+aligned", results.of("words")))
        for row in methods["gda"].rows
        if row.test_set == row.task and row.correct is not None and row.total
    }
    source, target = PAIRS[1]
    places = [(task, seed) for way, name, task, seed in rows if (way, name) == ("gda", target)]
    copied = [rows["gda", target, task, seed] for task, seed in places]
    aligned = [rows["gda+aligned", target, task, seed] for task, seed in places]
    on_source = [rows["gda", source, task, seed] for task, seed in places]
    pairs = zip(on_source, aligned, strict=True)
    assert found.copied.value == pytest.approx(statistics.fmean(copied))
    assert found.aligned.value == pytest.approx(statistics.fmean(aligned))
    assert found.gain.value == pytest.approx(found.aligned.value - found.copied.value)
    assert found.aligned_h.value == pytest.approx(
        statistics.fmean(harmonic_mean(*pair) for pair in pairs)
    )
    assert found.gain.low <= found.gain.value <= found.gain.high


def test_the_source_is_the_same_both_ways(results: SuiteResults) -> None:
    for name, aligned in results.of("words").items():
        plain = results.methods[name]

        def on_source(rows):
            return {
                (row.test_set, row.task, row.seed): row.correct
                for row in rows
                if row.backbone == row.source
            }

        assert on_source(aligned.rows) == on_source(plain.rows)


def test_a_method_with_a_missing_seed_has_no_mean(results: SuiteResults) -> None:
    whole = results.methods["gda"], results.of("words")["gda"]
    gone = whole[0].rows[0]
    cut = [
        replace(
            one,
            rows=tuple(r for r in one.rows if (r.task, r.seed) != (gone.task, gone.seed)),
        )
        for one in whole
    ]
    for copied in (cut[0], whole[0]):
        partial = SuiteResults("mini", {"gda": copied}, {"words": {"gda": cut[1]}})
        assert aligned_gains(partial, PAIRS[0], 16) == []


def test_the_committed_page_has_every_section() -> None:
    assert set(marked_sections(PAGE, SECTIONS)) == set(SECTIONS)
    for name in SECTIONS:
        body = PAGE.split(f"<!-- {name}:begin -->")[1].split(f"<!-- {name}:end -->")[0]
        assert "| --" in body
        if f"](alignment/{name}.svg)" in body:
            assert (REPOSITORY / "docs" / "alignment" / f"{name}.svg").is_file()


def test_the_committed_table_is_that_of_the_committed_results(results: SuiteResults) -> None:
    tables = [render_gains(pair, aligned_gains(results, pair, 16)) for pair in PAIRS]
    stranger = ("mini-clip", "mini-clip-other")
    other = read_results(REPOSITORY / "results" / "mini-no-lineage")
    tables.append(render_gains(stranger, aligned_gains(other, stranger, 16)))
    body = PAGE.split("<!-- aligned:begin -->\n")[1].split("<!-- aligned:end -->")[0]
    picture = body.split("\n\n")[0]
    assert fill_section(PAGE, "aligned", "\n\n".join([picture, *tables])) == PAGE
