"""Sentences with numbers that are written by hand agree with the tables of the results."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
FILES = {
    "readme": "README.md",
    "analysis": "docs/analysis.md",
    "mini-suite": "docs/mini-suite.md",
}
PAGES = {name: (REPOSITORY / path).read_text(encoding="utf-8") for name, path in FILES.items()}


def read_tables(page: str, section: str) -> list[list[list[str]]]:
    """Return the tables of a section as rows of cells; the first row has the headings."""
    [text] = re.findall(rf"(?s)<!-- {section}:begin -->(.*?)<!-- {section}:end -->", PAGES[page])
    tables = []
    for block in re.findall(r"(?m)(?:^\|.*\n)+", text):
        rows = []
        for line in block.splitlines():
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            rows.append([cell.strip(" `*") for cell in cells])
        del rows[1]  # the line below the headings
        tables.append(rows)
    return tables


def assert_says(page: str, sentence: str) -> None:
    """Assert that a page has a sentence, however its lines are broken."""
    assert sentence in " ".join(PAGES[page].split())


def test_the_readme_agrees_with_the_verdicts_on_the_claims() -> None:
    tables = [table[1:] for table in read_tables("analysis", "claims")]  # one of each upgrade

    def verdicts(claim: str) -> set[str]:
        return {row[3] for rows in tables for row in rows if row[0] == claim}

    assert sorted(rows[0][3] for rows in tables) == ["not decided", "supported"]
    assert_says("readme", "supported on one upgrade of the mini suite, not decided on the other")
    assert verdicts("4") == {"supported"}
    assert_says("readme", "by more than the paper's margins (supported on both)")
    assert verdicts("2") == {"not decided"}
    rivals = []
    for rows in tables:
        as_published = [row for row in rows if row[1].startswith("ContCoOp has the")]
        assert [row[3] for row in as_published] == ["contradicted", "not decided"]
        rivals.append(as_published[0][1].split("against ")[1].split(";")[0])
    assert rivals == ["ProKeR", "CLIP-LoRA"]


def test_the_page_of_the_mini_suite_names_the_method_that_is_unlike() -> None:
    rows = {row[0]: row[3] for row in read_tables("mini-suite", "likeness")[0][1:]}
    assert "(mma)" in rows["agreement of seeds"]
    assert_says(
        "mini-suite",
        "The modules of MMA differ from seed to seed by more than those of any other",
    )
