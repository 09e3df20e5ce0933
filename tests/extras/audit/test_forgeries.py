"""Every forgery of ``benchmark/faults/forgeries.py`` is found; no limit is, and nothing honest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from forged_project import METHODS, Project
from forgeries import FORGERIES, IN_CODE, LIMITS, try_forgery
from forgers import OTHER, claim, invent_suite

from compatbench.engine.cell import Cell
from compatbench.engine.confined.remote import ConfinedRegistry
from compatbench.engine.worker import Worker
from compatbench.extras.audit import rerun

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def _each_cell_once(few_methods: ConfinedRegistry) -> Iterator[None]:
    """All copies have the same cells, so one run of each does for all audits of this file."""
    known: dict[object, object] = {}
    measure = rerun.run_timed

    def remember(cell: Cell, worker: Worker) -> object:
        place = (cell.key, cell.backbones, cell.test_sets)
        if place not in known:
            known[place] = measure(cell, worker)
        return known[place]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rerun, "run_timed", remember)
        patch.setattr("compatbench.extras.audit.audit.ConfinedRegistry", lambda: few_methods)
        yield


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(name: str, project: Project, tmp_path: Path) -> None:
    assert try_forgery(name, project, project.folder.parent / tmp_path.name)


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_not_found_and_is_told(name: str, project: Project, tmp_path: Path) -> None:
    assert try_forgery(name, project, project.folder.parent / tmp_path.name) == []
    assert LIMITS[name].expected in re.sub(r"\s+", " ", (ROOT / "docs" / "security.md").read_text())


@pytest.mark.parametrize(("file", "test"), IN_CODE.values())
def test_a_forgery_in_code_has_a_test(file: str, test: str) -> None:
    assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text()


def test_honest_cells_are_compared_in_every_suite_that_has_them(project: Project) -> None:
    found = project.audit(METHODS, zero_shot=True)
    assert found.findings == []
    shared = [one.suites for one in found.sample if one.cell.name != "coop"]
    # Seven cells, two of them through words, which the other suite has not.
    assert sorted(shared) == [["tiny"]] * 2 + [["tiny", "wide"]] * 5
    assert found.unchecked == {}


def test_a_suite_stands_unverified_only_where_it_is_named(project: Project, tmp_path: Path) -> None:
    forged = project.copy(project.folder.parent / tmp_path.name)
    invent_suite(forged)
    forged.publish()
    found = forged.audit(unverified=["away"])
    assert not [one for one in found.findings if "not checked" in one.problem]
    assert found.unchecked == {"away": 9}
    assert "away: 9 rows are not checked; missing here: weights of eva02-b16; they are" in str(
        found.notes
    )
    page = (forged.folder / "leaderboard.md").read_text()
    assert "## Away (reported, not verified)\n" in page
    assert "## Tiny\n" in page


def test_a_processor_that_is_claimed_loosens_nothing_else(project: Project, tmp_path: Path) -> None:
    """An honest file of another machine passes; its name makes no difference."""
    forged = project.copy(project.folder.parent / tmp_path.name)
    for suite in ("tiny", "wide"):
        claim(suite, "simpleshot", OTHER)(forged)
    forged.publish()
    assert forged.audit(METHODS).findings == []
