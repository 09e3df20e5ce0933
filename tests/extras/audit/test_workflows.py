"""The workflows keep the rules that make a stranger's pull request harmless."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import expect_known
from unrecorded_methods import list_others

ROOT = Path(__file__).parents[3]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.y*ml"))
METHODS = [path.stem for path in (ROOT / "results" / "mini").glob("*.json")]
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


def test_every_command_and_file_that_a_script_names_exists() -> None:
    """No run of the workflows is needed to find an option or a path that was renamed."""
    scripts = [(ROOT / ".ci" / name).read_text() for name in ("run", "wheel")]
    for path in (*WORKFLOWS, ROOT / "action.yml"):
        document = read(path)
        for job in document.get("jobs", {"runs": document.get("runs")}).values():
            scripts += [step.get("run", "") for step in job["steps"]]
    text = "\n".join(scripts)
    commands = re.findall(r"(?m)(?:^|&& |do )compatbench ([a-z](?:\"[^\"]*\"|[^\"&|;\n])+)", text)
    assert len(commands) > 15
    for command in commands:
        expect_known(shlex.split(command))
    paths = re.findall(r"(?<![\w/$])(?:\.ci|benchmark|docs|results|tests)/[\w*./-]+", text)
    assert len(paths) > 15
    for path in paths:
        assert list(ROOT.glob(path)), path
    setup = (ROOT / "setup.cfg").read_text()
    for extra in re.findall(r"\.\[(\w+)\]", text):
        assert f"\n{extra} =\n" in setup


def test_a_pull_request_is_checked_by_the_table_of_its_base_the_rules_and_the_smoke_suite() -> None:
    path = GITHUB / "workflows" / "pull-request.yml"
    workflow = read(path)
    assert set(workflow[ON]) == {"pull_request"}
    assert len(workflow["jobs"]) == 1
    scripts = [step["run"] for step in steps(path) if "run" in step]
    table, names = scripts[:2]
    assert table.startswith('git show "origin/$GITHUB_BASE_REF:.ci/changes.py" > "$RUNNER_TEMP/')
    assert "--methods" in names
    ends = [script.split()[:3] for script in scripts if script.startswith("compatbench")]
    assert ends == [["compatbench", "check", '"$METHODS"'], ["compatbench", "run", "--suite"]]


def test_only_a_request_that_just_adds_methods_leaves_out_jobs() -> None:
    """If it is not known what a request changes, all jobs run: a skipped job counts as passed."""
    for path in WORKFLOWS:
        workflow = read(path)
        if path.name == "pull-request.yml" or "pull_request" not in workflow[ON]:
            continue
        assert not workflow[ON]["pull_request"]  # no path is left out
        jobs = workflow["jobs"]
        [find, _] = [step.get("run", "") for step in reversed(jobs.pop("changes")["steps"])]
        assert find.startswith('git show "origin/$GITHUB_BASE_REF:.ci/changes.py" > ')
        assert find.endswith('--adds-only-methods >> "$GITHUB_OUTPUT"')
        for job in jobs.values():
            assert job["needs"] == "changes"
            condition = "!cancelled() && needs.changes.outputs.adds_only_methods != 'yes'"
            assert job["if"] == f"${{{{ {condition} }}}}"


def test_new_rows_are_rebased_on_what_was_merged_meanwhile(tmp_path: Path) -> None:
    def git(folder: str, *arguments: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        command = ["git", *who, "-c", "init.defaultBranch=main", *arguments]
        done = subprocess.run(command, cwd=tmp_path / folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(folder: str, name: str) -> None:
        (tmp_path / folder / name).write_text(name)
        git(folder, "add", "-A")
        git(folder, "commit", "--message", name)

    git("", "init", "--bare", "origin")
    git("", "clone", "origin", "author")
    commit("author", "method")
    git("author", "push", "origin", "HEAD:main")
    git("", "clone", "--depth", "1", f"file://{tmp_path}/origin", "workflow")
    commit("author", "merged meanwhile")
    git("author", "push", "origin", "HEAD:main")
    commit("workflow", "rows")
    script = steps(GITHUB / "workflows" / "results.yml")[-1]["run"]
    names = {
        f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    environment = {**os.environ, **names}
    subprocess.run(script, shell=True, cwd=tmp_path / "workflow", env=environment, check=True)
    assert git("origin", "log", "--format=%s", "main").split("\n")[:2] == [
        "rows",
        "merged meanwhile",
    ]


def test_only_files_that_follow_from_methods_are_committed() -> None:
    """The job that writes takes no other file from the one that has run what was merged."""
    path = GITHUB / "workflows" / "results.yml"
    [apply] = [step["run"] for step in steps(path) if "git apply" in step.get("run", "")]
    taken = {pattern.strip("'") for pattern in re.findall(r"--include=(\S+)", apply)}
    pages = {"leaderboard.md", "README.md", "docs/methods/*", "docs/methods.md", "docs/authors.md"}
    pages |= {"docs/recipes.*", "benchmark/compatbench/tables/pages/methods.json"}
    assert taken == {"results/*", "tests/golden/outputs/*", "tasks/suites/*.yaml", *pages}


def test_a_merged_method_is_run_on_every_suite_that_compares_it() -> None:
    others = dict(other.split(":") for other in list_others(["gda", "contcoop"]))
    assert others["mini-shots"] == "gda"
    # Named configs of a method are run with it.
    assert others["mini-real"] == "contcoop,gda,contcoop+literal"
    assert "gda" not in others["mini-ablation"].split(",")
    assert "mini" not in others  # has a step of its own
    assert "mini-upgrades" not in others  # no clone has its weights


def test_a_version_is_tagged_where_its_wheel_was_tried() -> None:
    release = read(GITHUB / "workflows" / "release.yml")["jobs"]
    ci = read(GITHUB / "workflows" / "ci.yml")["jobs"]
    for job in (release["wheel"], ci["package"]):
        assert ".ci/wheel" in [step.get("run") for step in job["steps"]]
    assert release["tag"]["needs"] == ["version", "wheel", "rows"]
    for job in (release["wheel"], release["rows"]):
        assert job["needs"] == "version"
        assert job["if"] == "needs.version.outputs.version != ''"
    script = (ROOT / ".ci" / "wheel").read_text()
    # A wheel of an older version in dist/ is not taken for the new one.
    assert script.index("rm -f dist/compatbench-*.whl") < script.index("pip wheel")
    assert '"$size" -gt 30000000' in script
    assert "compatbench run --suite smoke" in script


@pytest.mark.parametrize(
    ("heading", "tag", "released"),
    [
        ("## 0.4.0 (2027-01-31)", "v0.3.0", "0.4.0"),
        ("## 0.4.0 (2027-01-31)", "v0.4.0", ""),
        ("## Unreleased", "v0.3.0", ""),
    ],
)
def test_a_version_is_released_once_and_with_its_changelog(
    heading: str, tag: str, released: str, tmp_path: Path
) -> None:
    job = read(GITHUB / "workflows" / "release.yml")["jobs"]["version"]
    [script] = [step["run"] for step in job["steps"] if "run" in step]
    package = tmp_path / "benchmark" / "compatbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('__version__ = "0.4.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n## 0.3.0 (2026-11-30)\n")
    who = "-c user.name=A -c user.email=a@example.org"
    repository = f"git init -q && git {who} commit -q --allow-empty -m a && git remote add origin ."
    variables = {"GITHUB_OUTPUT": str(tmp_path / "output"), "PATH": os.environ["PATH"]}
    for command in (f"{repository} && git tag {tag}", script):
        words = ["bash", "-e", "-c", command]
        subprocess.run(words, cwd=tmp_path, env=variables, check=True)
    assert (tmp_path / "output").read_text() == f"version={released}\n"


def choose_methods(script: str, folder: Path, **variables: str) -> list[str]:
    """Run a script of a workflow. Return the methods that it hands to the next step."""
    variables |= {"GITHUB_ENV": str(folder / "env"), "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=variables, check=True)
    _, _, names = (folder / "env").read_text().strip().partition("=")
    (folder / "env").unlink()
    return names.split(",")


def test_rows_of_a_random_method_are_made_again_every_night(tmp_path: Path) -> None:
    path = GITHUB / "workflows" / "rows.yml"
    assert "schedule" in read(path)[ON]
    choose, audit = [step["run"] for step in steps(path) if "run" in step][-2:]
    [name] = choose_methods(choose, tmp_path)
    assert name in METHODS
    assert audit == (
        'compatbench maintain audit --suite mini --rerun "$METHOD" --cells 1000 --cold'
    )


def test_rows_of_every_method_are_made_again_before_a_release(tmp_path: Path) -> None:
    job = read(GITHUB / "workflows" / "release.yml")["jobs"]["rows"]
    choose, audit = [step["run"] for step in job["steps"] if "run" in step][-2:]
    names = []
    for part in job["strategy"]["matrix"]["part"]:
        names += choose_methods(choose, tmp_path, PART=str(part))
    assert sorted(names) == sorted(METHODS)
    assert '--rerun "$METHODS" --cells 10000' in audit


def test_the_docs_are_built_with_the_packages_of_the_extra() -> None:
    setup = (ROOT / "setup.cfg").read_text()
    [extra] = re.findall(r"(?m)^docs =\n((?:    .*\n)+)", setup)
    [install] = [
        step["run"]
        for step in steps(GITHUB / "workflows" / "pages.yml")
        if "pip" in step.get("run", "")
    ]
    assert re.findall(r"'([^']+)'", install.split("#")[0]) == extra.split()
    [required] = re.findall(r"(?m)^install_requires =\n((?:    .*\n)+)", setup)
    [developing] = re.findall(r"(?m)^dev =\n((?:    .*\n)+)", setup)
    assert {*extra.split()} <= {*required.split(), *developing.split()}
