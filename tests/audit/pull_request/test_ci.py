"""What is asked of a pull request, on clones that change one thing each."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from honest_results import SUITE, invoke
from typer.testing import CliRunner, Result

from compatbench.cli.app import app
from compatbench.cli.new_method import fill_template
from compatbench.errors import CompatbenchError
from compatbench.method.registry import builtin_methods

from .conftest import Clone, git


def test_nothing_stands_against_a_change_of_words(clone: Clone) -> None:
    (clone.root / "docs").mkdir()
    (clone.root / "docs" / "page.md").write_text("words")
    ci = clone.check()
    assert ci.problems == []
    assert ci.summary.startswith("# compatbench ci\n\n**Passed.**\n")
    assert "- documentation: 1 files" in ci.summary
    assert "## Checks" not in ci.summary


def test_no_change_at_all_passes(clone: Clone) -> None:
    ci = clone.check(cells=3)
    assert ci.problems == []
    assert "\n- nothing\n" in ci.summary
    assert "Run again" not in ci.summary


def raise_version(text: str) -> str:
    """A method file whose card has a new version."""
    return text.replace("card = MethodCard(", "card = MethodCard(version=2, ")


def add_method(clone: Clone, name: str, text: str) -> None:
    """A new method with results and leaderboard, as a contributor sends it."""
    path = clone.root / "methods" / f"{name}.py"
    path.write_text(text)
    wanted = ["--suite", "tiny", "--methods", str(path), "--jobs", "1"]
    assert invoke("run", *wanted, "--out", str(clone.root)).exit_code == 0
    shutil.rmtree(clone.root / "runs")
    builtin_methods.cache_clear()


def test_a_new_method_is_checked_run_again_and_compared(clone: Clone) -> None:
    add_method(clone, "my_affine", fill_template("my_affine"))
    git(clone.root, "add", "-A")
    git(clone.root, "commit", "-q", "-m", "Add a method")
    ci = clone.check(cells=1)
    assert ci.problems == []
    text = ci.summary
    assert "- methods: `my_affine`" in text
    assert re.search(r"- `my_affine`: \d+ passed, 0 failed", text)
    assert re.search(r"drawn from the changed methods with seed 1:\n\n- `tiny`: my\\?_affine", text)
    assert "- `my_affine`: new, 4 rows" in text
    [row] = [line for line in text.splitlines() if line.startswith("| my")]
    assert [cell.strip() for cell in row.split("|")[-3:-1]] == ["new", "–"]
    # Of the references that the project has, zero-shot; not the methods that did not change.
    assert "| zeroshot (reference) " in text
    assert "| simpleshot" not in text


def test_a_method_that_breaks_a_rule_is_named_with_the_rule(clone: Clone) -> None:
    text = fill_template("my_affine")
    text = text.replace("scale * features + shift", "scale * features.mul_(2) + shift")
    (clone.root / "methods" / "my_affine.py").write_text(text)
    problems = clone.check().problems
    assert any(
        problem.startswith("check 'inputs-unchanged' of method 'my_affine' fails: ")
        for problem in problems
    ), problems


def test_a_method_changed_without_its_results_is_stale(clone: Clone) -> None:
    clone.edit("methods/simpleshot.py", raise_version)
    ci = clone.check()
    assert (
        "results/tiny/simpleshot.csv:2: 'key': is not what this checkout computes" in ci.problems[0]
    )
    assert all("simpleshot" in problem for problem in ci.problems)
    assert f"**Failed**: {len(ci.problems)} problem" in ci.summary


def test_a_removed_row_and_a_removed_file_are_named(clone: Clone) -> None:
    clone.edit("results/tiny/taskres.csv", lambda text: text.rsplit("\n", 2)[0] + "\n")
    clone.edit("results/tiny/taskres.cost.csv", lambda text: text.rsplit("\n", 2)[0] + "\n")
    for kind in ("csv", "cost.csv", "json"):
        (clone.results / f"simpleshot.{kind}").unlink()
    clone.publish()
    problems = "\n".join(clone.check().problems)
    assert (
        "results/tiny/taskres.csv: 1 rows of the base were removed, the first of mini-weather from "
        "mini-clip, 2 shots, seed 2, at mini-eva-clip on mini-weather"
    ) in problems
    assert "results/tiny/simpleshot.csv was removed; the method is still here" in problems


@pytest.mark.parametrize("folder", ["results", "results/tiny"])
def test_results_do_not_vanish_unseen(clone: Clone, folder: str) -> None:
    shutil.rmtree(clone.root / folder)
    assert clone.check().problems == ["all results were removed"]


def test_a_config_of_a_changed_method_changes_with_it(clone: Clone) -> None:
    settings = "methods: {taskres+slow: {method: taskres, recipe: {lr: 0.0005}}}\n"
    suite = clone.root / "tasks" / "suites" / "tiny.yaml"
    suite.write_text(SUITE + settings)
    wanted = ["--suite", "tiny", "--methods", "taskres+slow", "--jobs", "1"]
    assert invoke("run", *wanted, "--out", str(clone.root)).exit_code == 0
    shutil.rmtree(clone.root / "runs")
    git(clone.root, "checkout", "-q", "main")
    git(clone.root, "add", "-A")
    git(clone.root, "commit", "-q", "-m", "Add a config")
    git(clone.root, "checkout", "-q", "-b", "newer")
    clone.edit("methods/taskres.py", raise_version)
    ci = clone.check(base="main")
    assert any("taskres+slow.csv:2: 'key'" in problem for problem in ci.problems), ci.problems
    assert "- `taskres+slow`: 4 rows as before" in ci.summary


def test_a_method_may_go_with_its_results(clone: Clone) -> None:
    (clone.root / "methods" / "simpleshot.py").unlink()
    for kind in ("csv", "cost.csv", "json"):
        (clone.results / f"simpleshot.{kind}").unlink()
    clone.publish()
    ci = clone.check()
    assert ci.problems == []
    assert "- methods deleted: `simpleshot`" in ci.summary
    assert "- `simpleshot`: removed with its method" in ci.summary


def raise_accuracy(text: str) -> str:
    """Five more images right on both sides, so that all flips still fit."""
    lines = text.splitlines()
    column = lines[0].split(",").index("correct")
    for number in range(1, len(lines)):
        fields = lines[number].split(",")
        fields[column] = str(int(fields[column]) + 20)
        lines[number] = ",".join(fields)
    return "\n".join(lines) + "\n"


def test_other_numbers_under_the_same_key_are_named(clone: Clone) -> None:
    clone.edit("results/tiny/taskres.csv", raise_accuracy)
    clone.publish()
    ci = clone.check()
    assert len(ci.problems) == 4, ci.problems
    assert re.match(
        r"results/tiny/taskres.csv: mini-weather from mini-clip, 2 shots, seed 1, at mini-clip on "
        r"mini-weather: 'correct' went from \d+ to \d+ under one key",
        ci.problems[0],
    )
    assert "4 moved by more, the most by +20 images" in ci.summary


def test_a_base_of_an_older_layout_is_read_too(clone: Clone) -> None:
    git(clone.root, "checkout", "-q", "main")
    present = (clone.results / "taskres.csv").read_text()
    lines = [line.split(",") for line in present.splitlines()]
    new = ("negative_flips", "positive_flips", "inconsistent_errors", "ece")
    kept = [n for n, name in enumerate(lines[0]) if name not in new]
    old = "".join(",".join(line[n] for n in kept) + "\n" for line in lines)
    (clone.results / "taskres.csv").write_text(old)
    git(clone.root, "commit", "-q", "-a", "-m", "As it was")
    git(clone.root, "checkout", "-q", "-b", "newer")
    (clone.results / "taskres.csv").write_text(present)
    ci = clone.check(base="main")
    assert ci.problems == []
    assert "- `taskres`: 4 rows as before" in ci.summary


def test_a_stale_leaderboard_is_named(clone: Clone) -> None:
    clone.edit("leaderboard.md", lambda text: text + "\nBest of all: mine.\n")
    [problem] = clone.check().problems
    assert re.match(r"leaderboard.md:\d+: is not what the results give", problem)


def test_no_markup_of_a_change_reaches_the_summary(clone: Clone) -> None:
    evil = "<img src=x onerror=alert(1)> [click](https://evil.example) | `"
    clone.edit(
        "results/tiny/simpleshot.json",
        lambda text: re.sub(r'"numpy": \[[^\]]*\]', f'"numpy": ["{evil}"]', text),
    )
    (clone.root / "results" / "tiny" / "a[x](evil)<b>.csv").write_text("x")
    text = clone.check().summary
    assert not re.search(r"(?<!\\)<(img|b)", text)
    assert not re.search(r"(?<!\\)\[(x|click)\]", text)


def command(*arguments: str, **environment: str) -> Result:
    result = CliRunner().invoke(app, ["ci", *arguments], env={"COLUMNS": "300", **environment})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_writes_the_summary_and_exits_with_1(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compatbench.method.registry.builtin_methods", clone.registry)
    monkeypatch.chdir(clone.root)
    shown = command("--cells", "0", "--base", "main")
    assert shown.exit_code == 0
    assert "**Passed.**" in shown.stdout
    clone.edit("leaderboard.md", lambda text: text + "\n")
    summary = tmp_path / "summary.md"
    summary.write_text("of another step\n")
    failed = command("--cells", "0", GITHUB_STEP_SUMMARY=str(summary), GITHUB_BASE_REF="main")
    assert failed.exit_code == 1
    assert "1 problems" in failed.output
    text = summary.read_text()
    assert text.startswith("of another step\n# compatbench ci\n\n**Failed**: 1 problem.\n")
    assert "Against `origin/main`" in text


class TestGit:
    """What can be wrong with a clone is one clear line."""

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ("mian", "git knows no commit 'mian' here; fetch it"),
            ("--help", "git knows no commit '--help' here"),
            ("", "git knows no commit 'origin/nothing' here"),
            ("main\nx", "git knows no commit 'main"),
        ],
    )
    def test_a_base_that_is_not_here(
        self, clone: Clone, monkeypatch: pytest.MonkeyPatch, base: str, message: str
    ) -> None:
        monkeypatch.chdir(clone.root)
        monkeypatch.setenv("GITHUB_BASE_REF", "nothing")
        with pytest.raises(CompatbenchError, match=re.escape(message)):
            command(*(["--base", base] if base else []))

    def test_a_folder_that_is_no_clone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        with pytest.raises(CompatbenchError, match="is not in a git clone"):
            command()

    def test_a_machine_without_git(self, clone: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(clone.root)
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(CompatbenchError, match="'git' was not found; install it"):
            command()

    def test_histories_without_a_common_commit(
        self, clone: Clone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        git(clone.root, "checkout", "-q", "--orphan", "alone")
        git(clone.root, "commit", "-q", "-m", "Alone")
        monkeypatch.chdir(clone.root)
        with pytest.raises(CompatbenchError, match="share no commit here; fetch their history"):
            command("--base", "main")

    def test_another_installation_than_the_clones(
        self, clone: Clone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.undo()
        monkeypatch.chdir(clone.root)
        with pytest.raises(CompatbenchError, match=r"install this clone: pip install -e \."):
            command()

    def test_files_of_any_name_are_told_apart(self, clone: Clone) -> None:
        from compatbench.audit.pull_request.git import find_change

        names = {"a b.txt", "ü\n.txt", '"quoted".txt', "-rf", "new/deep.txt"}
        for name in names:
            path = clone.root / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        git(clone.root, "add", "--", "a b.txt")
        git(clone.root, "mv", "leaderboard.md", "moved.md")
        change = find_change(clone.root / "methods", None)
        assert change.changed == names | {"moved.md"}
        assert change.deleted == {"leaderboard.md"}
        assert change.name == "origin/main"
        assert change.read_base("leaderboard.md") is not None
        assert change.read_base("nothing") is None
