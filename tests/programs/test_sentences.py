"""Sentences with figures that were written by hand, beside the tables that results give."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = {
    name: (REPOSITORY / path).read_text(encoding="utf-8")
    for name, path in (
        ("readme", "README.md"),
        *((name, f"docs/{name}.md") for name in ("analysis", "mini-suite")),
    )
}


def read_tables(page: str, section: str) -> list[list[list[str]]]:
    """The tables of a section, as rows of cells; the first has the headings."""
    [text] = re.findall(rf"(?s)<!-- {section}:begin -->(.*?)<!-- {section}:end -->", PAGES[page])
    blocks = re.findall(r"(?m)(?:^\|.*\n)+", text)
    tables = [
        [[cell.strip(" `*") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        for lines in map(str.splitlines, blocks)
    ]
    return [[rows[0], *rows[2:]] for rows in tables]


def number(cell: str) -> float:
    return float(cell.split()[0].strip("+").replace("−", "-"))


def says(page: str, *sentences: str) -> None:
    """Whether the page has each, however its lines are broken."""
    text = " ".join(PAGES[page].split())
    for sentence in sentences:
        assert sentence in text


def test_what_the_readme_says_of_the_claims() -> None:
    verdicts = [
        [(row[0], row[1].split(":")[0], row[1], row[3]) for row in table[1:]]
        for table in read_tables("analysis", "claims")
    ]
    many = [of[0][3] for of in verdicts]
    assert sorted(many) == ["not decided", "supported"]
    says("readme", "supported on one upgrade of the mini suite, not decided on the other")
    assert {row[3] for of in verdicts for row in of if row[0] == "4"} == {"supported"}
    says("readme", "by more than the paper's margins (supported on both)")
    default = [[row for row in of if row[1].startswith("ContCoOp has the")] for of in verdicts]
    assert [[row[3] for row in rows] for rows in default] == [["contradicted", "not decided"]] * 2
    others = [rows[0][2].split("against ")[1].split(";")[0] for rows in default]
    assert others == ["ProKeR", "CLIP-LoRA"]
    assert {row[3] for of in verdicts for row in of if row[0] == "2"} == {"not decided"}


def test_what_the_mini_suite_is_unlike() -> None:
    rows = {row[0]: row[3] for row in read_tables("mini-suite", "likeness")[0][1:]}
    assert "(mma)" in rows["agreement of seeds"]
    said = "The modules of MMA differ from seed to seed by more than those of any other"
    says("mini-suite", said)
