"""The workflows keep the rules that make a stranger's pull request harmless."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from compatbench.extras.audit.change import MADE_OF_METHODS, is_made

GITHUB = Path(__file__).parents[3] / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.y*ml"))
ON = True  # as YAML 1.1 reads the key 'on'


def read(path: Path) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text())


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_stranger_gets_no_secret_no_right_to_write_and_no_script(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(workflow[ON])
    assert "secrets." not in path.read_text()
    assert "GITHUB_TOKEN" not in path.read_text()
    merged = set(workflow[ON]) <= {"push", "workflow_dispatch"}  # runs no stranger's code
    for job in workflow["jobs"].values():
        publish = {"contents": "read", "pages": "write", "id-token": "write"}
        assert "permissions" not in job or merged
        may_write = job.get("permissions") == {"contents": "write"}
        assert may_write or job.get("permissions", publish) == publish
        assert 0 < job["timeout-minutes"] <= 60
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is may_write
            if may_write:  # it runs nothing of the repository, nor of what it installs
                words = set(re.split(r"&& |\|\| ", step.get("run", "git")))
                assert {word.split()[0] for word in words} <= {"git", "mv", "rmdir", "test"}
    for step in steps(path):
        assert "${{" not in step.get("run", "")  # which holds what a stranger can write
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])


PULL_REQUEST = GITHUB / "workflows" / "pull-request.yml"


def test_what_runs_a_change_and_what_judges_it_are_two_jobs_that_install_the_base_alone() -> None:
    workflow = read(PULL_REQUEST)
    assert set(workflow[ON]) == {"pull_request"}
    assert workflow["jobs"]["trusted"]["needs"] == "untrusted"
    for name, job in workflow["jobs"].items():
        base, head = (one["with"] for one in job["steps"] if "actions/checkout@" in str(one))
        assert (base["path"], base["ref"]) == ("base", "${{ github.event.pull_request.base.sha }}")
        assert head["path"] == "head"
        assert "ref" not in head
        scripts = [step["run"] for step in job["steps"] if "run" in step]
        assert [line for line in scripts if "-e" in line.split()] == ["pip install -e base"]
        command = f"compatbench maintain ci --out head --job {name} --work work"
        assert [line for line in scripts if "head" in line] == [command]
        assert all("working-directory" not in step for step in job["steps"])


def test_results_are_committed_of_what_follows_from_methods_alone() -> None:
    """The job that writes takes no other file from the one that has run what was merged."""
    path = GITHUB / "workflows" / "results.yml"
    [apply] = [step["run"] for step in steps(path) if "git apply" in step.get("run", "")]
    taken = [pattern.strip("'") for pattern in re.findall(r"--include=(\S+)", apply)]
    written = {"README.md", "tasks/suites/*.yaml"}  # by people, too
    assert [name for name in taken if name not in written and not is_made(name)] == []
    for name in MADE_OF_METHODS:  # a file, or all that begins so
        path = name + "x" * name.endswith(("/", "."))
        assert any(fnmatch(path, pattern) for pattern in taken), name


def test_a_version_is_tagged_where_its_wheel_was_tried() -> None:
    release = read(GITHUB / "workflows" / "release.yml")["jobs"]
    ci = read(GITHUB / "workflows" / "ci.yml")["jobs"]
    for job in (release["wheel"], ci["package"]):
        assert ".ci/wheel" in [step.get("run") for step in job["steps"]]
    assert release["tag"]["needs"] == "wheel"
    script = (GITHUB.parent / ".ci" / "wheel").read_text()
    assert '"$size" -gt 30000000' in script
    assert "compatbench run --suite smoke" in script


def test_every_python_that_is_promised_is_tested() -> None:
    setup = (GITHUB.parent / "setup.cfg").read_text()
    promised = re.findall(r"Programming Language :: Python :: (3\.\d+)", setup)
    matrix = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == [promised[0], promised[-1]]


def test_the_pages_are_built_by_what_the_extra_has() -> None:
    setup = (GITHUB.parent / "setup.cfg").read_text()
    [extra] = re.findall(r"(?m)^docs =\n((?:    .*\n)+)", setup)
    [install] = [
        step["run"]
        for step in steps(GITHUB / "workflows" / "pages.yml")
        if "pip" in step.get("run", "")
    ]
    assert re.findall(r"'([^']+)'", install.split("#")[0]) == extra.split()
    assert set(extra.split()) <= set(re.findall(r"(?m)^dev =\n((?:    .*\n)+)", setup)[0].split())
