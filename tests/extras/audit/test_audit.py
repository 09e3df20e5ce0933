"""An audit finds results that this checkout does not make, and names their place."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command_line import forget_files
from engine.running import write_methods

import compatbench as cb
from compatbench.data.cards import suite_cards
from compatbench.engine.missing import Missing
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.planned_suite import PlannedSuite
from compatbench.extras.audit.stored_suite import StoredSuite
from compatbench.results.reports import RowReports, reports_text

from .conftest import Change, Project, add_right

pytestmark = pytest.mark.slow

# A file whose import hides every difference from the process that does it.
PATCH = """
import compatbench.extras.audit.audit as audit
import compatbench.extras.audit.rerun as rerun
from compatbench.extras.audit.suite_checks import Scored
audit.score_again = lambda suite, store: Scored()
rerun.compare_rows = lambda rows, again, problem: []
"""
PROGRAM = """
import sys
import compatbench as cb

if __name__ == "__main__":
    audit = cb.audit_results(".", cells=1, rerun=["taskres"], methods="./patch.py")
    for finding in audit.findings:
        print(finding.field, finding.problem)
    content = ("compatbench.methods.", "compatbench.transfers.", "compatbench.formats.")
    imported = [name for name in sys.modules if name.startswith((*content, "compatbench_plugin_"))]
    sys.exit(", ".join(imported) or 0)
"""


def rekey(text: str) -> str:
    """Replace the key in the first row of a file."""
    return re.sub("[0-9a-f]{16}", "0" * 16, text, count=1)


def name_another_processor(text: str) -> str:
    """Say in the description of a method's rows that another processor made them."""
    about = json.loads(text)
    about["provenance"]["processor"] = ["another"]
    return json.dumps(about, indent=1, sort_keys=True) + "\n"


def copy_first_seed(text: str) -> str:
    """Give the rows of seed 2 the numbers of seed 1, under their own keys."""
    header, *rows = (row.split(",") for row in text.splitlines())
    place = header.index("seed")
    first = [row for row in rows if row[place] == "1"]
    copies = []
    for row, other in zip(first, (row for row in rows if row[place] == "2"), strict=True):
        copies.append([*other[: place + 1], *row[place + 1 : -2], *other[-2:]])
    # A file has the seeds of each task together, and one task here.
    return "".join(",".join(row) + "\n" for row in (header, *first, *copies))


def test_results_that_were_made_here_pass(project: Project) -> None:
    code, output = project.audit(cells=4)
    assert code == 0, output
    # Zero-shot has one seed, the others two.
    assert "suites: 1, method files: 4, rows: 14; scored again: 14; run again: 4 cells" in output
    assert "findings: 0" in output
    last = output.splitlines()[-1]
    assert last == "not run again: 3 of 7 cells (tiny 3); --cells runs more"
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
def test_a_difference_is_reported_with_its_place(
    project: Project, name: str, change: Change, found: str
) -> None:
    project.edit(name, change)
    code, output = project.audit()
    assert code == 1
    assert found in output


def test_predictions_of_another_processor_are_not_compared_with_rows(project: Project) -> None:
    project.edit("taskres.csv", add_right(3))
    project.edit("taskres.json", name_another_processor)
    audit = cb.audit_results(project.folder, cells=0)
    assert not [finding for finding in audit.findings if "stored predictions" in finding.problem]
    # Zero-shot has one cell, the others two with two rows each.
    assert audit.scored == 14 - 4
    [note] = audit.notes
    assert note.startswith("tiny: the predictions of 2 cells in 'runs/' were made by another")


def test_files_that_no_command_makes_are_reported(project: Project, tmp_path: Path) -> None:
    """Whatever a stranger leaves there could reach readers of the pages or of the site."""
    results = project.folder / "results"
    outside = tmp_path / "outside"
    outside.write_text("mine")
    strays = ["report/evil.html", "figures/evil.html", "tiny/tuning/evil.html", "tiny/.evil.csv"]
    strays += ["other/evil.html", ".evil.csv", "evil.html", "published/more.csv"]
    for stray in strays:
        path = results / stray
        path.parent.mkdir(exist_ok=True)
        path.write_text("<script>")
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


def test_pages_of_a_clone_must_be_files_with_the_tables_that_are_made(project: Project) -> None:
    leaderboard = project.folder / "leaderboard.md"
    moved = project.folder / "moved.md"
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


def test_refusals_and_provenance_cannot_be_invented(
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
    assert "missing here: the weights of mini-eva-clip; get it" in output
    (tasks / "backbones" / "mini-eva-clip.yaml").unlink()
    suite = tasks / "suites" / "tiny.yaml"
    suite.write_text(suite.read_text() + "made_by: make it\n")
    forget_files()
    project.write_pages()
    code, output = project.audit()
    assert code == 0, output
    assert "missing here: the weights of mini-eva-clip; they are reported, not verified" in output


def test_rows_that_need_modules_of_a_missing_task_are_not_compared() -> None:
    lines = []
    for task in ("mini-food", "mini-signs"):
        for transfer in ("copied", "module-ridge"):
            lines.append((task, task, "mini-clip", "mini-eva-clip", transfer))
    columns = ["task", "test_set", "source", "backbone", "transfer"]
    rows = pd.DataFrame(lines, columns=columns)
    card = suite_cards.read("mini-price")

    def find_rows_here(missing: Missing) -> list[tuple[str, str]]:
        plan = PlannedSuite(methods={}, compared=(), cells=(), missing=missing)
        stored = StoredSuite(Path(), card, plan, {}, {}, rows, {}, [], broken=False)
        here = stored.here(rows)
        return list(zip(here["task"], here["transfer"], strict=True))

    assert find_rows_here(Missing({}, {"mini-food": "gone"})) == [("mini-signs", "copied")]
    assert len(find_rows_here(Missing({}, {"mini-objects-mono": "gone"}))) == 4


def test_a_cell_that_gives_another_number_when_run_again_is_a_finding(project: Project) -> None:
    project.drop_predictions()
    project.edit("taskres.csv", add_right(None))
    assert "'correct'" not in project.audit()[1]
    code, output = project.audit(cells=9)
    assert code == 1
    assert "taskres.csv:3: 'correct': the cell was run again and gave another value" in output


def test_an_audit_imports_no_content_and_a_method_cannot_hide_a_difference(
    project: Project,
) -> None:
    project.edit("taskres.csv", add_right(None))
    write_methods(project.folder / "patch.py", PATCH, patch="pass")
    (project.folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py"]
    ended = subprocess.run(command, cwd=project.folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "correct is not what the stored predictions give" in ended.stdout
    assert "correct the cell was run again and gave another value" in ended.stdout


def test_a_cell_that_cannot_run_again_is_a_finding_and_counts_as_not_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = project.folder / "cache"
    cache.write_text("no folder")
    monkeypatch.setenv("COMPATBENCH_CACHE", str(cache))
    audit = cb.audit_results(project.folder, cells=2)
    [finding] = audit.findings
    assert finding.problem.startswith("cells cannot be run again: ")
    assert (audit.cells, audit.not_run) == ([], {"tiny": 7})


def test_only_the_cells_of_the_named_methods_are_run_again(project: Project) -> None:
    output = project.audit("--rerun", "coop,taskres", cells=99)[1]
    assert "run again: 4 cells" in output
    assert "tiny: simpleshot" not in output
    with pytest.raises(CompatbenchError, match=r"--rerun \(in Python: rerun\): 'gda'"):
        cb.audit_results(project.folder, rerun=["gda"])


def test_rows_of_another_machine_may_differ_as_much_as_processors_do(project: Project) -> None:
    project.move_elsewhere("taskres")
    project.edit("taskres.csv", add_right(3))
    audit = cb.audit_results(project.folder, cells=9)
    assert not [finding for finding in audit.findings if finding.field == "correct"]
    [note] = audit.notes
    assert note.startswith("tiny: of 4 rows that were run again and were made by another processor")
    assert re.search(
        r"1 differs here, 1 of them in their correct answers, by up to 0\.\d % of the images$", note
    )
    document = json.loads(project.audit("--json", cells=1)[1])
    assert len(document["cells"]) == 1
    assert document["not_run"] == {"tiny": 6}


def test_rows_raised_further_than_processors_differ_are_findings(project: Project) -> None:
    project.move_elsewhere("taskres")
    project.edit("taskres.csv", add_right(3, images=20))
    project.write_pages()
    output = project.audit(cells=9)[1]
    assert "taskres.csv:3: 'correct': the cell was run again and is further away" in output
    assert "findings: 2" in output  # and the same in the predictions of its cell


def test_rows_of_unstable_methods_have_no_limit_on_another_processor(project: Project) -> None:
    card = project.folder / "tasks" / "suites" / "tiny.yaml"
    card.write_text(card.read_text() + "unstable: {taskres: other answers on another machine}\n")
    forget_files()
    project.move_elsewhere("taskres")
    project.edit("taskres.csv", add_right(3, images=20))
    project.write_pages()
    page = (project.results / "README.md").read_text()
    assert "gives other numbers: TaskRes † (other answers on another machine)." in page
    audit = cb.audit_results(project.folder, cells=9)
    assert not [finding for finding in audit.findings if finding.field == "correct"]
    assert audit.notes[-1] == (
        "tiny: its card calls these methods unstable, so their numbers have no limit: taskres"
    )


def test_many_slightly_raised_rows_of_a_cell_are_a_finding(project: Project) -> None:
    project.move_elsewhere("taskres")
    project.edit("taskres.csv", add_right(None, images=12))
    project.write_pages()
    audit = cb.audit_results(project.folder, cells=9)
    problems = [finding.problem for finding in audit.findings if "on average" in finding.problem]
    assert len(problems) == 2  # one for each seed
    assert not [finding for finding in audit.findings if finding.field == "correct"]


def test_no_processor_changes_the_size_of_a_module(project: Project) -> None:
    project.move_elsewhere("simpleshot")
    rows = pd.read_csv(project.results / "simpleshot.csv", dtype=str, keep_default_na=False)
    rows["parameters"] = "7"
    rows.to_csv(project.results / "simpleshot.csv", index=False)
    found = {finding.field for finding in cb.audit_results(project.folder, cells=9).findings}
    assert "parameters" in found


def test_a_method_that_the_suite_asks_for_must_have_results(project: Project) -> None:
    project.drop("coop")
    project.write_pages()
    code, output = project.audit()
    assert code == 1
    assert "results/tiny: the suite asks for methods that have no results: coop" in output
    assert "findings: 1" in output


def test_a_seed_that_the_suite_asks_for_must_have_results(project: Project) -> None:
    for name in ("coop", "simpleshot", "taskres", "zeroshot"):
        project.drop_seed(name, 2)
    project.write_pages()
    code, output = project.audit()
    assert code == 1
    assert "results/tiny: the suite asks for seeds that no method has: 2" in output
    assert "findings: 1" in output


def test_two_seeds_with_the_same_counts_are_a_finding(project: Project) -> None:
    project.drop_predictions()
    project.edit("simpleshot.csv", copy_first_seed)
    project.write_pages()
    code, output = project.audit()
    assert code == 1
    assert "simpleshot.csv: seeds 1 and 2 have the same counts in every row ('copied')" in output
    assert "findings: 1" in output


def test_a_broken_file_is_reported_once_with_its_cause(project: Project) -> None:
    project.edit("coop.csv", lambda text: text.replace(",ok,", ",okay,", 1))
    (project.folder / "docs" / "methods").mkdir(parents=True)
    audit = cb.audit_results(project.folder, cells=0)
    [finding] = audit.findings
    assert finding.file == str(project.results / "coop.csv")
    assert finding.line == 2
    assert "'status'" in finding.problem
    assert audit.notes == ["no page is compared: results of tiny are broken"]


def test_rows_that_any_clone_can_make_are_not_taken_as_reported(project: Project) -> None:
    (project.results / "reported.json").write_text(reports_text(RowReports()))
    findings = cb.audit_results(project.folder, ["tiny"], cells=0).findings
    assert "any clone can make the rows of this suite" in findings[0].problem


def test_a_suite_without_pages_needs_no_place_in_the_readme(project: Project) -> None:
    card = project.folder / "tasks" / "suites" / "tiny.yaml"
    card.write_text(card.read_text() + "publish: false\n")
    forget_files()
    (project.folder / "docs" / "methods").mkdir(parents=True)
    (project.folder / "README.md").write_text("# Mine\n")
    (project.results / "README.md").unlink()
    assert cb.audit_results(project.folder, ["tiny"], cells=0).findings == []
