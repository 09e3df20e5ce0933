"""Every forgery of ``benchmark/faults/forgeries.py`` is found; what is honest is not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmark" / "faults"))

import forgeries
from forgeries import FORGERIES, Project, audit, invent_suite, make_honest, try_forgery

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_honest(tmp_path_factory.mktemp("forgeries") / "honest")


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(name: str, project: Project, tmp_path: Path) -> None:
    assert try_forgery(name, project, tmp_path / "forged")


def test_honest_cells_are_compared_in_every_suite_that_has_them(project: Project) -> None:
    found = audit(project, cells=9, zero_shot=True)
    assert found.findings == []
    assert [one.suites for one in found.sample] == [["tiny", "wide"]] * 5
    assert found.unchecked == {}


def test_a_suite_stands_unverified_only_where_it_is_named(project: Project, tmp_path: Path) -> None:
    forged = Project(tmp_path / "forged")
    shutil.copytree(project.folder, forged.folder)
    invent_suite(forged)
    found = audit(forged, unverified=["away"])
    assert not [one for one in found.findings if "not checked" in one.problem]
    assert found.unchecked == {"away": 5}
    assert "away: 5 rows are not checked; missing here: weights of eva02-b16; they are" in str(
        found.notes
    )
    page = (forged.folder / "leaderboard.md").read_text()
    assert "## Away (reported, not verified)\n" in page
    assert "## Tiny\n" in page


def test_a_processor_that_is_claimed_loosens_nothing_else(project: Project, tmp_path: Path) -> None:
    """An honest file of another machine passes; its name makes no difference."""
    forged = Project(tmp_path / "forged")
    shutil.copytree(project.folder, forged.folder)
    for suite in ("tiny", "wide"):
        forged.claim(forgeries.OTHER, suite, "simpleshot")
    assert audit(forged, cells=9).findings == []
