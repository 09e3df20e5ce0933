"""The workflows keep the rules that make a stranger's pull request harmless."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

GITHUB = Path(__file__).parents[2] / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.y*ml"))
FORMS = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))


def read(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key 'on' as true.
    return {
        "on" if key is True else key: value
        for key, value in yaml.safe_load(path.read_text()).items()
    }


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_there_are_workflows_and_forms() -> None:
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "pull-request.yml"]
    assert [path.name for path in FORMS] == [
        "bug.yml",
        "config.yml",
        "new-dataset.yml",
        "new-method.yml",
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_stranger_gets_no_secret_and_no_right_to_write(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow["on"])
    assert "secrets." not in path.read_text()
    assert "GITHUB_TOKEN" not in path.read_text()
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert 0 < job["timeout-minutes"] <= 60


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_script_holds_what_a_stranger_can_write(path: Path) -> None:
    for step in steps(path):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_leave_no_token_behind(path: Path) -> None:
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_a_pull_request_is_checked_by_the_one_command() -> None:
    workflow = read(GITHUB / "workflows" / "pull-request.yml")
    assert set(workflow["on"]) == {"pull_request"}
    runs = [
        step["run"] for step in steps(GITHUB / "workflows" / "pull-request.yml") if "run" in step
    ]
    assert runs[-1] == "compatbench ci"


def test_every_python_that_is_promised_is_tested() -> None:
    setup = (GITHUB.parent / "setup.cfg").read_text()
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", setup)
    matrix = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == promised


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_have_what_github_asks_of_them(path: Path) -> None:
    form = read(path)
    if path.name == "config.yml":
        assert all(set(link) == {"name", "url", "about"} for link in form["contact_links"])
        return
    assert {"name", "description", "body"} <= set(form)
    identifiers = [part["id"] for part in form["body"]]
    assert len(set(identifiers)) == len(identifiers)
    assert {part["type"] for part in form["body"]} <= {
        "textarea",
        "input",
        "dropdown",
        "checkboxes",
    }
