"""From two authors' files to rows and pages: checked, merged without a conflict, recorded."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
import yaml

from compatbench.extras.audit.submit import set_method
from compatbench.files.project_folders import content_folder
from compatbench.results.result_files import FILES

from .conftest import Project, git

pytestmark = pytest.mark.slow

CARD = """# A suite.
name: s
methods:
  # The slow one.
  coop: {max_steps: 8}
  # Two lines.
  maple: {a: 1,
    b: 2}
  tcp: {c: 3}
note: n
"""


@pytest.mark.parametrize(
    ("name", "settings", "old", "new"),
    [
        ("coop", {"max_steps": 9}, "{max_steps: 8}", "{max_steps: 9}"),
        ("lfa", {"d": [1]}, "  # Two", "  lfa: {d: [1]}\n  # Two"),
        ("maple", {"a": 2}, "{a: 1,\n    b: 2}", "{a: 2}"),
        ("zs", {"e": {}}, "note", "  zs: {e: {}}\nnote"),
        ("tcp", {}, "  tcp: {c: 3}\n", ""),
        ("none", {}, "", ""),
    ],
)
def test_settings_are_a_line_of_a_card(
    name: str, settings: dict[str, object], old: str, new: str
) -> None:
    text = set_method(CARD, name, settings)
    expected = yaml.safe_load(CARD)
    expected["methods"] |= {name: settings}
    expected["methods"] = {k: v for k, v in expected["methods"].items() if v}
    assert yaml.safe_load(text) == expected
    if name != "lfa":  # which stands before or after the comment of the next
        assert text == CARD.replace(old, new, 1)


def commit(project: Project, message: str) -> set[str]:
    """Commits all there is, and gives the paths of the commit."""
    git(project.folder, "add", "-A")
    git(project.folder, "commit", "-q", "-m", message)
    command = ["git", "show", "--name-only", "--format=", "--no-renames"]
    return {*subprocess.check_output(command, cwd=project.folder, text=True).split()}


@pytest.mark.skipif(
    "COMPATBENCH_LONG_TESTS" not in os.environ,
    reason="two minutes; with COMPATBENCH_LONG_TESTS=1, as the workflow has it",
)
def test_two_pull_requests_of_one_file_each_are_merged_and_recorded(project: Project) -> None:
    for branch, like in (("first", "gda"), ("second", "taskres")):
        git(project.folder, "checkout", "-q", "-b", branch, "main")
        text = (content_folder("methods") / f"{like}.py").read_text()
        assert f'name="{like}"' in text
        text = text.replace(f'name="{like}"', f'name="{branch}"')
        (project.folder / "methods" / f"{branch}.py").write_text(text)
        assert commit(project, branch) == {f"methods/{branch}.py"}
    git(project.folder, "checkout", "-q", "main")
    for branch in ("first", "second"):
        git(project.folder, "merge", "-q", "--no-edit", branch)  # fails on a conflict

    # What the project does then.
    said = project.run("maintain", "submit", "--suite", "tiny", "--jobs", "1")
    made = commit(project, "Results")
    assert {line for line in said.splitlines() if (project.folder / line).is_file()} == made
    names = ("first", "second", "zeroshot_ensemble")  # of which there were no rows, either
    results = {f"results/tiny/{name}{end}" for name in names for end in FILES}
    tuned = {"results/tiny/tuning/second.json"}  # a closed form has nothing to choose
    assert made >= results | tuned | {"leaderboard.md"}
    pages = ("leaderboard.md", "results/tiny/README.md", "results/figures/", "results/report/")
    others = {path for path in made - results - tuned if not path.startswith(pages)}
    assert others <= {"tasks/suites/tiny.yaml"}
    assert "findings: 0" in project.run("maintain", "audit", "--cells", "2")
    again = project.run("maintain", "submit", "--suite", "tiny")
    assert again.strip() == "methods: none; files written: 0"

    # A method gets another name, and one is removed.
    record = (project.results / "tuning" / "second.json").read_text()
    rows = (project.results / "second.csv").read_text()
    methods = project.folder / "methods"
    text = (methods / "second.py").read_text()
    (methods / "third.py").write_text(
        text.replace('name="second"', 'name="third",\n        was="second"')
    )
    (methods / "second.py").unlink()
    (methods / "first.py").unlink()
    said = project.run("maintain", "submit", "--suite", "tiny", "--jobs", "1")
    assert "methods: third; gone: first, second" in said
    renamed = (project.results / "third.csv").read_text()
    assert renamed == rows.replace("second,", "third,")
    kept = json.loads((project.results / "tuning" / "third.json").read_text())
    assert kept == json.loads(record) | {"method": "third"}
    assert "second" not in (project.folder / "leaderboard.md").read_text()
    assert "findings: 0" in project.run("maintain", "audit", "--cells", "0")
