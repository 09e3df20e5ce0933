"""The report and its figures follow from the results, or are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compatbench.audit.audit import check_pages
from compatbench.data.cards import suite_cards

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.html", "figures/mini-scatter-1.svg"])
def test_a_picture_or_report_that_was_edited_is_named(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results", tmp_path / "results")
    for page in ("leaderboard.md", "README.md"):
        shutil.copy(ROOT / page, tmp_path / page)
    path = tmp_path / "results" / name
    path.write_bytes(path.read_bytes().replace(b"</svg>", b"<text>mine</text></svg>", 1))
    [finding] = check_pages(tmp_path, [suite_cards.read("mini")])
    assert f"results/{name} is not what results/ gives" in finding.problem
