"""What is asked of a pull request, on clones that change one thing each."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from command_line import invoke
from honest_results import SUITE, SUITES, invent_suite
from PIL import Image

from compatbench.cli.new_method import fill_template
from compatbench.data.layouts.drawings import Drawings
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.change import find_change
from compatbench.extras.audit.pull_request import check_pull_request
from compatbench.files.project_folders import content_folder

from .conftest import Clone, git, set_field


def test_nothing_stands_against_a_change_of_words_or_of_nothing(clone: Clone) -> None:
    (clone.folder / "docs").mkdir()
    (clone.folder / "docs" / "page.md").write_text("words")
    ci = clone.check()
    assert ci.problems == []
    assert ci.summary.startswith("# compatbench ci\n\n**Passed.**\n")
    assert "- `docs`: 1 files" in ci.summary
    assert "## Checks" not in ci.summary
    shutil.rmtree(clone.folder / "docs")
    unchanged = clone.check(cells=3)
    assert unchanged.problems == []
    assert "\n- nothing\n" in unchanged.summary
    assert "Run again" not in unchanged.summary


@pytest.mark.slow
def test_a_new_method_is_checked_run_again_and_compared(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(content_folder("methods") / "gda.py", clone.folder / "methods")
    clone.run("gda")
    git(clone.folder, "add", "-A")
    git(clone.folder, "commit", "-q", "-m", "Add a method")
    monkeypatch.setenv("COMPATBENCH_CACHE", str(cache := clone.folder.parent / "empty"))
    ci = clone.check(cells=None)
    assert ci.problems == []
    assert not cache.exists()  # no features that lie about are believed
    text = ci.summary
    assert "- methods: `gda`" in text
    assert re.search(r"- `gda`: \d+ passed, 0 failed", text)
    assert "- 2 of 2 cells of new methods run again: 0.1 of them forged would be found" in text
    assert "Drawn with seed 1:" in text
    assert "\n`gda` 2\n" in text
    assert "- `gda`: new, 4 rows" in text
    rows = re.findall(r"^\|[ \d=–]+\| \[([^]]*)\]", text, flags=re.M)
    # Of the references that the project has, zero-shot, here and at the base; no other method.
    assert sorted(rows) == ["GDA", "Zero-shot", "Zero-shot"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "minutes", "again"),
    [
        ("benchmark/compatbench/tables/leaderboard.py", 10, "4 of 4 methods, a cell of each, run"),
        ("setup.cfg", 0, "0 of 4 methods, a cell of each, run again (4 were wanted; the time"),
        ("docs/page.md", 10, ""),
    ],
)
def test_a_cell_of_every_method_is_run_again_if_the_harness_changed(
    clone: Clone, path: str, minutes: float, again: str
) -> None:
    (clone.folder / path).parent.mkdir(parents=True, exist_ok=True)
    (clone.folder / path).write_text("# another\n")
    ci = clone.check(cells=None, minutes=minutes)
    assert ci.problems == []
    assert again in ci.summary
    assert ("a cell of each" in ci.summary) == bool(again)


@pytest.mark.slow
def test_images_that_the_harness_blanks_are_seen(
    clone: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache of the machine holds features of the true ones."""
    (clone.folder / "tasks" / "__init__.py").write_text("# blanks them\n")
    blank = Image.new("RGB", (48, 48))
    monkeypatch.setattr(Drawings, "image", lambda *_: blank)
    again = ": the cell was run again and gave another number"
    assert any(again in problem for problem in clone.check(cells=None).problems)


@pytest.mark.slow
def test_a_changed_methods_forged_cell_is_found(clone: Clone) -> None:
    """It agrees with itself; the method is not new, so it is drawn."""
    clone.edit("taskres.json", lambda text: text.replace('"torch": [\n   "', '"torch": [\n   "0.'))
    for column in ("correct", "positive_flips"):
        clone.edit("taskres.csv", set_field(3, column, lambda v: int(v) + 20))
    clone.publish()
    ci = clone.check(cells=None)
    assert "- 4 of 4 cells of changed methods run again" in ci.summary
    again = "results/tiny/taskres.csv:3: 'correct': the cell was run again and gave another number"
    assert any(again in problem for problem in ci.problems), ci.problems


@pytest.mark.slow
def test_a_method_that_breaks_a_rule_is_named_with_the_rule(clone: Clone) -> None:
    text = fill_template("my_affine")
    text = text.replace("scale * features + shift", "scale * features.mul_(2) + shift")
    (clone.folder / "methods" / "my_affine.py").write_text(text)
    problems = clone.check().problems
    assert any(
        problem.startswith("check 'inputs-unchanged' of method 'my_affine' fails: ")
        for problem in problems
    ), problems


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "old", "new"), [("mine.py", "FACTOR *", "-FACTOR *"), ("strength.py", "2.0", "3.0")]
)
def test_an_outside_method_whose_code_changed_is_stale(
    clone: Clone, file: str, old: str, new: str
) -> None:
    """The suite names its file, which imports the one beside it."""
    outside = clone.folder / "outside"
    outside.mkdir()
    text = fill_template("mine").replace("torch\n", "torch\nfrom strength import FACTOR\n", 1)
    (outside / "mine.py").write_text(text.replace("scale * features", "FACTOR * scale * features"))
    (outside / "strength.py").write_text("FACTOR = 2.0\n")
    suite = clone.folder / "tasks" / "suites" / "tiny.yaml"
    suite.write_text(SUITE + "plugins: [../../outside/mine.py]\n")
    clone.run("mine")
    clone.commit_to_base()
    assert clone.check(base="main").problems == []
    clone.edit(f"outside/{file}", lambda text: text.replace(old, new))
    ci = clone.check(base="main")
    assert "- methods: `mine`" in ci.summary
    stale = "results/tiny/mine.csv:2: 'key': is not what this checkout computes"
    assert any(stale in problem for problem in ci.problems), ci.problems


def test_what_is_not_verified_is_said_in_the_summary(clone: Clone) -> None:
    (clone.folder / "tasks" / "suites" / "away.yaml").write_text(SUITES["away"])
    invent_suite(clone.folder)
    clone.publish()
    problems = clone.check().problems
    assert len(problems) == 1, problems
    [problem] = problems
    assert re.match(r"results/away: 9 rows are not checked; missing here: weights of eva", problem)
    ci = check_pull_request(clone.folder, cells=0, zero_shot=False, unverified=["away"])
    assert ci.problems == []
    assert ci.summary.startswith(
        "# compatbench ci\n\n**No problem in what could be checked.**\n\n"
        "**Not verified**: 9 rows of `away` were not checked.\n"
    )


def test_what_was_removed_is_named_unless_its_method_went(clone: Clone) -> None:
    rows = (clone.results / "taskres.csv").read_text().splitlines()
    keys = [line.split(",")[-2] for line in rows if line.startswith("taskres,words,")]
    for name in ("taskres.csv", "taskres.cost.csv"):
        clone.edit(name, lambda text: re.sub(f".*({'|'.join(keys)}).*\n", "", text))
    clone.remove("coop")
    clone.remove("simpleshot")
    (clone.folder / "methods" / "simpleshot.py").unlink()
    clone.publish()
    ci = clone.check()
    assert ci.problems == [
        "results/tiny/taskres.csv: 4 rows of the base were removed, the first of mini-weather from "
        "mini-clip, 2 shots, seed 1, at mini-clip on mini-weather, by transfer 'words'",
        "results/tiny/coop.csv was removed; the method is still here",
    ]
    assert "- methods deleted: `simpleshot`" in ci.summary
    assert "- `simpleshot`: removed with its method" in ci.summary


@pytest.mark.parametrize("folder", ["results", "results/tiny"])
def test_results_do_not_vanish_unseen(clone: Clone, folder: str) -> None:
    shutil.rmtree(clone.folder / folder)
    assert clone.check().problems == ["all results were removed"]


@pytest.mark.slow
def test_a_method_of_a_new_version_is_stale_and_so_is_its_config(clone: Clone) -> None:
    settings = "methods: {taskres+slow: {method: taskres, recipe: {lr: 0.0005}}}\n"
    suite = clone.folder / "tasks" / "suites" / "tiny.yaml"
    suite.write_text(SUITE + settings)
    clone.run("taskres+slow")
    clone.commit_to_base()
    clone.edit(
        "methods/taskres.py", lambda text: text.replace("MethodCard(", "MethodCard(version=2, ")
    )
    ci = clone.check(base="main")
    for name in ("taskres", "taskres+slow"):
        stale = f"results/tiny/{name}.csv:2: 'key': is not what this checkout computes"
        assert any(stale in problem for problem in ci.problems), ci.problems
    assert all("taskres" in problem for problem in ci.problems), ci.problems
    assert f"**Failed**: {len(ci.problems)} problem" in ci.summary
    assert "- `taskres+slow`: 4 rows as before" in ci.summary


def test_other_numbers_under_the_same_key_are_named(clone: Clone) -> None:
    # Twenty more images right on both sides, so that all flips still fit.
    more = set_field(None, "correct", lambda v: int(v) + 20)
    clone.edit("coop.csv", more)
    clone.publish()
    ci = clone.check()
    assert len(ci.problems) == 4, ci.problems
    assert re.match(
        r"results/tiny/coop.csv: mini-weather from mini-clip, 2 shots, seed 1, at mini-clip on "
        r"mini-weather: 'correct' went from \d+ to \d+ under one key",
        ci.problems[0],
    )
    assert "4 moved by more, the most by +20 images" in ci.summary


def test_no_markup_of_a_change_reaches_the_summary(clone: Clone) -> None:
    evil = "<img src=x onerror=alert(1)> [click](https://evil.example) | `"
    clone.edit(
        "simpleshot.json", lambda text: re.sub(r'"numpy": \[[^\]]*\]', f'"numpy": ["{evil}"]', text)
    )
    (clone.folder / "results" / "tiny" / "a[x](evil)<b>.csv").write_text("x")
    text = clone.check().summary
    assert not re.search(r"(?<!\\)<(img|b)", text)
    assert not re.search(r"(?<!\\)\[(x|click)\]", text)


@pytest.mark.slow
def test_the_command_writes_the_summary_and_exits_with_1(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone.folder)
    shown = invoke("ci", "--cells", "0", "--base", "main")
    assert shown.exit_code == 0
    assert "**Passed.**" in shown.stdout
    clone.edit("./leaderboard.md", lambda text: text + "\n")
    summary = tmp_path / "summary.md"
    summary.write_text("of another step\n")
    failed = invoke("ci", "--cells", "0", GITHUB_STEP_SUMMARY=str(summary), GITHUB_BASE_REF="main")
    assert failed.exit_code == 1
    assert "problems: 1" in failed.output
    text = summary.read_text()
    assert text.startswith("of another step\n# compatbench ci\n\n**Failed**: 1 problem.\n")
    assert "Against `origin/main`" in text


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("mian", "git knows no commit 'mian' here; fetch it"),
        ("--help", "git knows no commit '--help' here"),
        ("", "git knows no commit 'origin/nothing' here"),
        ("main\nx", "git knows no commit 'main"),
        ("alone", "share no commit here; fetch their history"),
    ],
)
def test_a_base_that_cannot_be_compared_with_is_one_line(
    clone: Clone, monkeypatch: pytest.MonkeyPatch, base: str, message: str
) -> None:
    git(clone.folder, "branch", "alone", git(clone.folder, "commit-tree", "HEAD^{tree}").strip())
    monkeypatch.chdir(clone.folder)
    monkeypatch.setenv("GITHUB_BASE_REF", "nothing")
    with pytest.raises(CompatbenchError, match=re.escape(message)):
        invoke("ci", *(["--base", base] if base else []))


def test_a_machine_or_folder_that_cannot_be_used_is_one_line(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(CompatbenchError, match="is not in a git clone"):
        invoke("ci")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CompatbenchError, match="'git' was not found; install it"):
        invoke("ci")
    monkeypatch.undo()
    (clone.folder / "methods").rename(clone.folder / "other")
    with pytest.raises(CompatbenchError, match="methods is no folder; give a clone"):
        invoke("ci", "--out", clone.folder, "--base", "main")


AGAIN = "'correct': the cell was run again and gave another number"
PATCHES = {  # of what a method may not import, and of what it may
    "the audit and the verdict": (
        "import compatbench.extras.audit.audit as audit\naudit.check_again = 0\n"
        "import compatbench.extras.audit.pull_request as ci\nci.PullRequest.problems = []"
    ),
    "the counting and the comparison": (
        "from compatbench.engine.predict import Measured\n"
        "Measured.right = property(lambda self: self.targets >= 0)\n"
        "import pandas\npandas.DataFrame.query = lambda self, *_: self[:0]"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PATCHES)
def test_a_method_that_patches_its_judge_patches_its_own_process(clone: Clone, name: str) -> None:
    clone.edit("methods/taskres.py", lambda text: f"{text}\n{PATCHES[name]}\n")
    # Importing the audit reads more of the machine than a method may.
    refused = "method 'taskres' cannot be loaded"
    assert [one for one in clone.check(cells=4).problems[:1] if refused not in one] == []
    clone.edit("taskres.csv", set_field(None, "correct", lambda v: int(v) + 20))
    clone.publish()
    problems = clone.check(cells=4).problems
    again = f"results/tiny/taskres.csv:2: {AGAIN}"
    assert any(again in one or refused in one for one in problems), problems


@pytest.mark.slow
def test_a_method_that_reaches_beyond_itself_is_named(clone: Clone) -> None:
    results = clone.results / "coop.csv"
    before = results.read_bytes()
    for code, problem in {
        f"open({str(results)!r}, 'a').write('x')": "writes results/tiny/coop.csv while",
        f"open({str(results)!r})": "reads results/tiny/coop.csv while it is loaded",
        "import os; os._exit(0)": "exit code 0, while it is loaded",
    }.items():
        git(clone.folder, "checkout", "-q", "methods")
        clone.edit("methods/taskres.py", lambda text, code=code: f"{text}\n{code}\n")
        problems = clone.check().problems
        assert any(
            one.startswith("method 'taskres' cannot be loaded") and problem in one
            for one in problems
        ), problems
    assert results.read_bytes() == before


def test_a_harness_is_judged_by_the_one_that_is_installed(clone: Clone) -> None:
    """A bonus in the harness of a change, and results that were made with it."""
    harness = clone.folder / "benchmark" / "compatbench"
    harness.mkdir(parents=True)
    (harness / "__init__.py").write_text("raise SystemExit\n")
    (harness / "rows.py").write_text("BONUS = 20\n")
    ci = clone.check()
    assert ci.problems == []
    assert "that of the change was not run, and it changes the harness." in ci.summary
    clone.edit("coop.csv", set_field(None, "correct", lambda v: int(v) + 20))
    clone.publish()
    assert any("coop.csv:2: " + AGAIN in one for one in clone.check(cells=2).problems)


def test_files_that_ship_and_files_that_hide_code_are_not_taken(clone: Clone) -> None:
    (clone.folder / "tasks" / "weights.safetensors").write_text("x")
    (clone.folder / "methods" / "more.pyc").write_text("x")
    (clone.folder / "methods" / "linked.py").symlink_to("coop.py")
    problems = clone.check().problems
    assert problems[:3] == [
        "methods/linked.py: is a link; put what it leads to in its place",
        "methods/more.pyc: methods are Python files, and nothing else belongs there",
        "tasks/weights.safetensors: ships with the project, and a change cannot be judged by its "
        "own files; the project's owner has to add it",
    ]


def test_files_of_any_name_are_told_apart(clone: Clone) -> None:
    names = {"a b.txt", "ü\n.txt", '"quoted".txt', "-rf", "new/deep.txt"}
    for name in names:
        path = clone.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    git(clone.folder, "add", "--", "a b.txt")
    git(clone.folder, "mv", "leaderboard.md", "moved.md")
    change = find_change(clone.folder / "methods", None)
    assert change.changed == names | {"moved.md"}
    assert change.deleted == {"leaderboard.md"}
    assert change.name == "origin/main"
    assert "tiny.yaml" in {path.split("/")[-1] for path in change.read_base("tasks/suites")}
    assert change.read_base("nothing") == {}
