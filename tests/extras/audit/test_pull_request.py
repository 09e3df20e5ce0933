"""What is asked of a pull request, on clones that change a thing each."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.change import Change, read_base_results
from compatbench.extras.audit.pull_request import PullRequest, check_pull_request
from compatbench.extras.audit.untrusted import copy_without_labels
from compatbench.files.project_folders import content_folder, tasks_folder

from .conftest import Project, change_of, git, set_field

pytestmark = pytest.mark.slow

LABELS = """
from compatbench.data.task import load_task
from compatbench.method import *

class Peeks(Method):
    card = MethodCard("peeks", "Peeks", "none", "classifier", "for a test")
    def fit(self, backbone, data, rng):
        labels = {sample.label for sample in load_task("mini-weather").split("test")}
        if labels != {-1}:
            raise RuntimeError("sees labels")
        return Module()
    def attach(self, module, backbone, labels):
        return CosineClassifier(backbone.zero_shot(labels), 1.0)
"""


def test_a_copy_of_the_cards_has_no_label_of_a_test_image(tmp_path: Path) -> None:
    copy_without_labels(tasks_folder(), tmp_path / "tasks")
    for path in sorted((tmp_path / "tasks" / "mini" / "splits").glob("*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["label"] for row in rows if row["split"] == "test"} == {"-1"}, path
        assert "-1" not in {row["label"] for row in rows if row["split"] != "test"}


@pytest.fixture(scope="module")
def checked(
    original: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[PullRequest, Path]]:
    """A change with new methods, wrong rows, and rows of a method that it does not change.

    And the folder that it was run in.
    """
    place = tmp_path_factory.mktemp("change")
    with change_of(original, place / "project") as project:
        methods = project.folder / "methods"
        shutil.copy(content_folder("methods") / "gda.py", methods)
        (methods / "peeks.py").write_text(LABELS)
        (methods / "taskres.py").write_text(f"{(methods / 'taskres.py').read_text()}\n# changed\n")
        project.edit("taskres.csv", set_field(3, "correct", lambda value: int(value) + 1))
        project.edit("coop.csv", set_field(3, "correct", lambda value: int(value) - 1))
        yield project.check(place / "work"), place / "work"


def test_a_method_that_is_one_file_is_run_and_gets_its_rows(
    checked: tuple[PullRequest, Path], tmp_path: Path
) -> None:
    found, work = checked
    failed = [problem for problem in found.problems if "'gda'" in problem or "sees" in problem]
    assert failed == [], found.problems
    assert found.rows is not None
    assert {each.info.name for each in found.rows.all} == {"gda", "peeks", "taskres"}
    assert "- `gda`: 4 rows made here" in found.summary
    # They are the rows of an ordinary run, and lie where results lie.
    made = (work / "results" / "tiny" / "gda.csv").read_text()
    cb.run("tiny", methods=["gda"], seeds=[1, 2], out=tmp_path, compute=cb.Compute(jobs=1))
    assert (tmp_path / "results" / "tiny" / "gda.csv").read_text() == made


def test_rows_that_are_sent_must_be_those_that_are_made(
    checked: tuple[PullRequest, Path],
) -> None:
    found, _ = checked
    problems = " ".join(found.problems)
    assert "results of 'taskres': 1 rows are not what the run here gives" in problems
    assert "1 rows of coop changed under an unchanged key" in problems
    assert found.summary.startswith("# compatbench maintain ci\n\n**Failed**: ")


def test_links_data_beside_methods_and_files_of_the_mini_suite_are_refused(
    project: Project, tmp_path: Path
) -> None:
    (project.folder / "methods" / "data.bin").write_bytes(b"x")
    (project.folder / "methods" / "link.py").symlink_to("coop.py")
    (project.folder / "tasks" / "mini" / "splits" / "weather.csv").write_text("x")
    work = tmp_path / "work"
    (project.folder / "methods" / "coop.py").unlink()  # or the link would be a method that changed
    found = check_pull_request(project.folder, suite="tiny", job="untrusted", work=work)
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "methods/data.bin",
        "methods/link.py",
        "tasks/mini/splits/weather.csv",
    ]


def test_a_clone_and_a_base_that_are_none_are_one_line(project: Project, tmp_path: Path) -> None:
    with pytest.raises(CompatbenchError, match="is not in a git clone"):
        check_pull_request(tmp_path)
    with pytest.raises(CompatbenchError, match="git knows no commit 'nothing' here"):
        check_pull_request(project.folder, "nothing")
    with pytest.raises(CompatbenchError, match="--job 'some': choose untrusted, trusted or both"):
        check_pull_request(project.folder, job="some")


def test_a_record_of_tuning_at_the_base_is_not_taken_for_a_result(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "tiny" / "tuning"
    folder.mkdir(parents=True)
    (folder / "coop.json").write_text("no")
    (folder / "linear_probe.csv").write_text("no")
    for command in ("init", "add -A", "commit -m Begin"):
        git(tmp_path, *command.split())
    change = Change(tmp_path, base="HEAD", name="main", changed=frozenset())
    assert read_base_results(change, "tiny").all == ()
    assert read_base_results(change, "other").all == ()
