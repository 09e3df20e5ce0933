"""An audit finds results that this checkout does not make, and names their place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import forget_files

import compatbench as cb
from compatbench.results.result_files import ResultFiles
from compatbench.tables.pages.leaderboard import write_pages
from compatbench.tables.suite_page import published_pages

from .conftest import Change, Project, add_right

pytestmark = pytest.mark.slow


def rekey(text: str) -> str:
    """Another key in the first row of a file."""
    return re.sub("[0-9a-f]{16}", "0" * 16, text, count=1)


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
        ("taskres.csv", add_right(3), "csv:3: 'correct': is not what the stored predictions give"),
        (
            "taskres.csv",
            rekey,
            "csv:2: 'key': is not what this checkout computes; the row",
        ),
        ("taskres.json", lambda text: text.replace('"alpha"', '"beta"', 1), "json: 'config."),
        ("coop.csv", lambda text: text[: text.rindex("coop,")], "of the suite has no row"),
        ("coop.csv", lambda text: text + "x", "coop.csv"),
    ],
)
def test_what_differs_is_named_with_its_place(
    project: Project, name: str, change: Change, found: str
) -> None:
    project.edit(name, change)
    code, output = project.audit()
    assert code == 1
    assert found in output


def test_nothing_is_among_the_results_that_no_command_makes(
    project: Project, tmp_path: Path
) -> None:
    """Everything that a stranger might leave there, for readers of the pages or of the site."""
    results, outside = project.folder / "results", tmp_path / "outside"
    outside.write_text("mine")
    strays = ["report/evil.html", "figures/evil.html", "tiny/tuning/evil.html", "tiny/.evil.csv"]
    strays += ["other/evil.html", ".evil.csv", "evil.html", "published/more.csv"]
    for name in (results / stray for stray in strays):
        name.parent.mkdir(exist_ok=True)
        name.write_text("<script>")
    links = [project.folder / "README.md", results / "linked", results / "tiny" / "README.md"]
    for link in links:
        link.unlink(missing_ok=True)
        link.symlink_to(outside)
    hard = project.results / "coop.csv"
    (tmp_path / "hard").hardlink_to(hard)
    findings = cb.audit_results(project.folder, cells=0).findings
    found = {Path(finding.file): finding.problem for finding in findings}
    for stray in strays:
        assert found[results / stray] == "no command makes it; move it away"
    assert found[links[0]].startswith("is no file with a place for the ranking")
    assert [found[path] for path in links[1:]] == ["is a link, not a file of its own"] * 2
    assert found[hard] == "is a hard link, not a file of its own"


def test_pages_of_a_clone_are_files_with_the_tables_that_are_made(project: Project) -> None:
    leaderboard, moved = project.folder / "leaderboard.md", project.folder / "moved.md"
    leaderboard.rename(moved)
    leaderboard.symlink_to(moved)
    (project.folder / "docs" / "methods").mkdir(parents=True)
    (project.folder / "docs" / "methods" / "evil.md").write_text("| CoOp | 99 |")
    (project.folder / "README.md").write_text("| CoOp | 99 |\n")
    output = project.audit()[1]
    for line in (
        "leaderboard.md: is a link, not a file of its own",
        "docs/methods/evil.md: no command makes it",
        "README.md: is no file with a place for the ranking: <!-- leaderboard:begin",
    ):
        assert line in output


def test_nobody_else_says_that_a_method_is_refused_or_what_made_its_rows(
    project: Project,
) -> None:
    project.edit("taskres.json", lambda text: text.replace('"name"', '"refused": "x",\n  "name"'))
    line = 'taskres.json: \'method.refused\': is not as resolved here; expected "", found "x"'
    assert line in project.audit()[1]
    project.edit("coop.json", lambda text: text.replace('"torch": [\n   "', '"torch": [\n   "<b>'))
    project.edit("simpleshot.json", lambda text: text.replace('"torch"', '"[a](b)"'))
    output = project.audit()[1]
    assert "coop.json: 'provenance.torch.0': String should match pattern" in output
    assert "simpleshot.json: 'provenance.[a](b).[key]': String should match pattern" in output


def test_rows_on_a_model_that_does_not_ship_but_can_be_made_are_reported(project: Project) -> None:
    tasks = project.folder / "tasks"
    (tasks / "mini" / "mini-eva-clip.safetensors").unlink()
    code, output = project.audit()
    assert code == 1
    assert "missing here: weights of mini-eva-clip; get it" in output
    (tasks / "backbones" / "mini-eva-clip.yaml").unlink()
    suite = tasks / "suites" / "tiny.yaml"
    suite.write_text(suite.read_text() + "made_by: make it\n")
    forget_files()
    write_pages(project.folder, published_pages(ResultFiles(project.folder)))
    code, output = project.audit()
    assert code == 0, output
    assert "missing here: weights of mini-eva-clip; they are reported, not verified" in output


def test_a_cell_that_is_run_again_and_gives_another_number_is_a_finding(project: Project) -> None:
    project.drop_predictions()
    project.edit("taskres.csv", add_right(None))
    assert "'correct'" not in project.audit()[1]
    code, output = project.audit(cells=9)
    assert code == 1
    assert "taskres.csv:3: 'correct': the cell was run again and gave another value" in output


def test_of_results_of_another_machine_the_rows_that_differ_are_counted(project: Project) -> None:
    project.drop_predictions()
    other = '"torch": [\n   "0.1'
    project.edit("taskres.json", lambda text: text.replace('"torch": [\n   "', other))
    project.edit("taskres.csv", add_right(3))
    audit = cb.audit_results(project.folder, cells=9)
    assert not [each for each in audit.findings if each.field == "correct"]
    [note] = audit.notes
    assert note.startswith("tiny: of 4 rows that were run again and were made by another processor")
    assert note.endswith("1 differ here")
    document = json.loads(project.audit("--json", cells=1)[1])
    assert len(document["cells"]) == 1
