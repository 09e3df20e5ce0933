"""From two authors' files to rows and pages: merged without a conflict, tuned, run, audited."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import yaml

from compatbench.files.project_folders import content_folder
from compatbench.method.registry import builtin_methods
from compatbench.results.tuned_settings import set_method
from compatbench.results.tuning_records import read_record

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


@pytest.mark.skipif(
    "COMPATBENCH_LONG_TESTS" not in os.environ,
    reason="a minute; with COMPATBENCH_LONG_TESTS=1, as the workflow has it",
)
def test_two_methods_of_one_file_each_are_merged_and_get_their_results(project: Project) -> None:
    for branch, like in (("first", "gda"), ("second", "taskres")):
        git(project.folder, "checkout", "-q", "-b", branch, "main")
        text = (content_folder("methods") / f"{like}.py").read_text()
        assert f'name="{like}"' in text
        text = text.replace(f'name="{like}"', f'name="{branch}"')
        (project.folder / "methods" / f"{branch}.py").write_text(text)
        git(project.folder, "add", "-A")
        git(project.folder, "commit", "-q", "-m", branch)
    git(project.folder, "checkout", "-q", "main")
    for branch in ("first", "second"):
        git(project.folder, "merge", "-q", "--no-edit", branch)  # fails on a conflict
    both = ("--suite", "tiny", "--methods", "first,second", "--seeds", "1,2", "--jobs", "1")
    project.run("maintain", "tune", "second", "--suite", "tiny", "--jobs", "1", "--write")
    project.run("run", *both)
    project.run("run", *both, "--transfers", "words")
    record = read_record(project.results / "tuning" / "second.json")
    chosen = yaml.safe_load((project.folder / "tasks" / "suites" / "tiny.yaml").read_text())
    expected = record.settings[record.chosen].changes(builtin_methods().get("taskres").Config())
    assert expected
    assert chosen["methods"] == {"second": expected}
    assert set(pd.read_csv(project.results / "second.csv")["transfer"]) == {"copied", "words"}
    assert "findings: 0" in project.run("maintain", "audit", "--cells", "2")
