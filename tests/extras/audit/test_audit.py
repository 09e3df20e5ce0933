"""An audit finds results that this checkout does not make, and names their place."""

from __future__ import annotations

import json
import shutil

import pytest

import compatbench as cb

from .conftest import Project, set_field

pytestmark = pytest.mark.slow


def test_results_that_were_made_here_are_found_to_be_so(project: Project) -> None:
    code, output = project.audit(cells=4)
    assert code == 0, output
    # Zero-shot has one seed, the others two.
    assert "suites: 1, method files: 4, rows: 14; scored again: 14; run again: 4 cells" in output
    assert "findings: 0" in output
    audit = cb.audit_results(project.folder, cells=0)
    assert (audit.rows, audit.scored, audit.findings, audit.cells) == (14, 14, [], [])
    assert audit.frame.empty


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        (
            "taskres.csv",
            set_field(3, "correct", lambda value: int(value) + 1),
            "taskres.csv:3: 'correct': is not what the stored predictions give",
        ),
        (
            "taskres.csv",
            set_field(2, "key", lambda value: "0" * len(value)),
            "taskres.csv:2: 'key': is not what this checkout computes; the row is stale",
        ),
        (
            "taskres.json",
            lambda text: text.replace('"alpha"', '"beta"', 1),
            "taskres.json: 'config.",
        ),
        (
            "coop.csv",
            lambda text: "\n".join(text.splitlines()[:-1]) + "\n",
            "a measurement of the suite has no row",
        ),
        ("coop.csv", lambda text: text + "x", "coop.csv"),
    ],
)
def test_what_differs_is_named_with_its_place(
    project: Project, name: str, change: object, found: str
) -> None:
    project.edit(name, change)  # type: ignore[arg-type]
    code, output = project.audit()
    assert code == 1
    assert found in output


def test_a_cell_that_is_run_again_and_gives_another_number_is_a_finding(project: Project) -> None:
    shutil.rmtree(project.folder / "runs")  # no predictions to score
    project.edit("taskres.csv", set_field(None, "correct", lambda value: int(value) + 1))
    assert "'correct'" not in project.audit()[1]
    code, output = project.audit(cells=9)
    assert code == 1
    assert "taskres.csv:3: 'correct': the cell was run again and gave another value" in output


def test_of_results_of_another_machine_the_rows_that_differ_are_counted(project: Project) -> None:
    shutil.rmtree(project.folder / "runs")
    other = '"torch": [\n   "0.1'
    project.edit("taskres.json", lambda text: text.replace('"torch": [\n   "', other))
    project.edit("taskres.csv", set_field(3, "correct", lambda value: int(value) + 1))
    audit = cb.audit_results(project.folder, cells=9)
    assert not [each for each in audit.findings if each.field == "correct"]
    [note] = audit.notes
    assert note.startswith("tiny: of 4 rows that were run again and were made by another processor")
    assert note.endswith("1 differ here")
    document = json.loads(project.audit("--json", cells=1)[1])
    assert len(document["cells"]) == 1
