"""The finding on Rosetta's design says how many test drawings its design had seen."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import pytest
import rosetta_overlap

ROOT = Path(__file__).parents[2]


def read_counts() -> list[dict[str, str]]:
    """Return the committed counts."""
    with rosetta_overlap.COUNTS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_drawings_are_matched_by_icon_set_and_class() -> None:
    card = "classes: [cat, dog]\n"
    splits = "split,label,set,tile,paint\ntrain,0,ph,3,1\ntest,1,ph,3,2\ntest,0,twemoji,9,5\n"
    assert rosetta_overlap.list_drawings(card, splits, "test") == [
        ("ph", "dog"),
        ("twemoji", "cat"),
    ]
    assert len(rosetta_overlap.list_drawings(card, splits)) == 3


def test_the_page_has_the_totals_of_the_counts() -> None:
    counts = read_counts()
    tested = sum(int(row["tested"]) for row in counts)
    design = sum(int(row["in_design"]) for row in counts)
    held_out = sum(int(row["in_first_held_out"]) for row in counts)
    page = " ".join((ROOT / "docs" / "findings.md").read_text(encoding="utf-8").split())
    assert f"{design} of the {tested:,} test drawings ({100 * design / tested:.0f} %)" in page
    assert f"Another {held_out} ({100 * held_out / tested:.0f} %)" in page
    assert "those of a second look" in page


@pytest.mark.slow
def test_the_counts_are_those_of_the_history() -> None:
    known = ["git", "-C", str(ROOT), "cat-file", "-e", f"{rosetta_overlap.COMMIT}^{{commit}}"]
    if subprocess.run(known, capture_output=True).returncode:
        pytest.skip("this clone has no history")
    counts = []
    for row in rosetta_overlap.count_overlap():
        counts.append({name: str(value) for name, value in row.items()})
    assert counts == read_counts()
