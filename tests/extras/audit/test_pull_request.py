"""What is asked of a pull request, on clones that change a thing each."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.change import (
    Change,
    check_change,
    find_change,
    find_methods,
    read_base_results,
)
from compatbench.extras.audit.pull_request import PullRequest, check_pull_request
from compatbench.extras.audit.untrusted import copy_without_labels
from compatbench.files.project_folders import content_folder, tasks_folder

from .conftest import Project, add_right, change_of, git

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
    """A change with new methods, a data file and another comment, and the folder it was run in."""
    place = tmp_path_factory.mktemp("change")
    with change_of(original, place / "project") as project:
        methods = project.folder / "methods"
        shutil.copy(content_folder("methods") / "gda.py", methods)
        (methods / "peeks.py").write_text(LABELS)
        (methods / "peeks.json").write_text("{}")
        (methods / "taskres.py").write_text(f"{(methods / 'taskres.py').read_text()}\n# changed\n")
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
    assert "- files that are not committed are judged, too: methods/taskres.py and 3 more" in (
        found.summary
    )
    # They are the rows of an ordinary run, and lie where results lie.
    made = (work / "results" / "tiny" / "gda.csv").read_text()
    cb.run("tiny", methods=["gda"], seeds=[1, 2], out=tmp_path, compute=cb.Compute(jobs=1))
    assert (tmp_path / "results" / "tiny" / "gda.csv").read_text() == made


def test_what_is_made_of_methods_is_left_out_and_rows_of_others_stay(project: Project) -> None:
    project.edit("coop.csv", add_right(3, -1))
    (project.folder / "leaderboard.md").write_text("mine")
    found = project.check()
    [generated, moved] = found.problems
    assert generated == (
        "leaderboard.md and 1 more: leave out what 'compatbench maintain submit' makes after "
        "the merge"
    )
    assert moved.startswith("1 rows of coop changed under an unchanged key, the first of mini-")
    assert found.summary.startswith("# compatbench maintain ci\n\n**Failed**: ")
    # A change of the harness brings its own, which the audit judges.
    (project.folder / "setup.cfg").write_text("")
    found = project.check()
    assert found.problems == [moved]
    assert "- 2 files of results and pages, which 'maintain audit' judges" in found.lines


def test_links_strange_data_and_files_of_the_mini_suite_are_refused(
    project: Project, tmp_path: Path
) -> None:
    methods = project.folder / "methods"
    for name in ("data.bin", "nobodys.json", "named.json", "listed.csv"):
        (methods / name).write_bytes(b"x")
    (methods / "one.py").write_text("FILE = 'named.json'\nMethodCard('one', files=(FILE,))")
    (methods / "two.py").write_text("FILES = ['listed.csv']\ncards.MethodCard(files=FILES)")
    (methods / "link.py").symlink_to("coop.py")
    (project.folder / "tasks" / "mini" / "splits" / "weather.csv").write_text("x")
    change = find_change(project.folder, None)
    found = dict(problem.partition(": ")[::2] for problem in check_change(change))
    assert {path: why[:50] for path, why in found.items()} == {
        "methods/data.bin": "data of a method is packaged as .csv, .json, .safe",
        "methods/link.py": "is a link; put what it leads to in its place",
        "methods/nobodys.json": "no method names it on its card: files=('nobodys.js",
        "tasks/mini/splits/weather.csv": "ships with the project, and a change cannot be jud",
    }
    assert {"methods/one.py", "methods/two.py"} <= {*find_methods(change)}
    (methods / "two.py").write_text("MethodCard(files=tuple(names()))")
    with pytest.raises(CompatbenchError, match=r"two.py:1: 'files' cannot be read without running"):
        find_methods(change)


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
