"""The effects of a pull request, as `.ci/changes.py` prints them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / ".ci" / "changes.py"
METHOD = "from ._shared.layers import draw\nFILES = ('coop.json',)\n"
BASE = {
    "methods/coop.py": METHOD,
    "methods/coop.json": "{}",
    "methods/zeroshot.py": "",
    "methods/_shared/layers.py": "from .texts import fill\n",
    "methods/_shared/texts.py": "",
    "tasks/mini-food.yaml": "",
}


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, check=True)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone on a branch without changes."""
    git(tmp_path, "init", "-q")
    write(tmp_path, BASE)
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "Begin")
    git(tmp_path, "checkout", "-q", "-b", "change")
    return tmp_path


def run(clone: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), "main", *options]
    return subprocess.run(command, cwd=clone, capture_output=True, text=True)


EFFECTS = {
    ".ci/run": "what CI runs",
    ".github/ISSUE_TEMPLATE/bug.yml": "text",
    ".github/workflows/ci.yml": "what CI runs",
    "benchmark/compatbench/results/ranking.py": "how others are ranked",
    "benchmark/pages.py": "what CI runs",
    "docs/conf.py": "what CI runs",
    "docs/trust.md": "text",
    "leaderboard.md": "how others are ranked",
    "methods/_shared/layers.py": "how others are ranked",
    "methods/coop.json": "methods",
    "methods/coop.py": "methods",
    "results/published/few_shot.csv": "how others are ranked",
    "setup.cfg": "what CI runs",
    "tasks/backbones/mini-clip.yaml": "how others are ranked",
    "tasks/suites/mini.yaml": "how others are ranked",
    "tests/conftest.py": "what CI runs",
    "tests/golden/outputs/method-coop.json": "what CI runs",
    "transfers/copied.py": "how others are ranked",
}


def test_every_changed_file_is_listed_with_its_effect(clone: Path) -> None:
    write(clone, dict.fromkeys(EFFECTS, "changed"))
    git(clone, "add", ".ci", "setup.cfg")
    git(clone, "commit", "-q", "-m", "A part is committed")
    (clone / "tasks" / "mini-food.yaml").unlink()
    found = run(clone)
    assert found.returncode == 0
    rows = [line.strip("| ").split(" | ") for line in found.stdout.splitlines()[2:]]
    shown = {path.strip("`"): effect for path, effect in rows}
    assert shown == EFFECTS | {"tasks/mini-food.yaml": "how others are ranked"}
    effects = [effect for _, effect in rows]
    assert effects == sorted(effects)


def test_path_cannot_break_the_table(clone: Path) -> None:
    write(clone, {"docs/a` | **b**\n| c.md": ""})
    [row] = run(clone).stdout.splitlines()[2:]
    assert row == "| `docs/a??????b?????c.md` | text |"


@pytest.mark.parametrize(
    ("files", "methods"),
    [
        (["methods/zeroshot.py", "methods/new.py"], "new,zeroshot"),
        (["methods/coop.json"], "coop"),
        (["methods/_shared/texts.py"], "coop"),
        (["methods/a;b.py", "tasks/mini-food.yaml"], ""),
    ],
)
def test_methods_that_read_a_changed_file_are_checked(
    files: list[str], methods: str, clone: Path
) -> None:
    write(clone, dict.fromkeys(files, "changed"))
    assert run(clone, "--methods").stdout == f"{methods}\n"


OWN = {
    "methods/mine.py": "",
    "methods/mine.json": "",
    "tests/methods/formulas/mine.py": "",
}


def test_pull_request_that_adds_a_method_may_only_have_its_files(clone: Path) -> None:
    write(clone, OWN)
    assert run(clone).returncode == 0
    others = {
        "methods/coop.py",
        "benchmark/research/recipes/mine.yaml",
        "methods/mine.bin",
        "methods/other.json",
        "methods/_shared/more.py",
        "tests/methods/conftest.py",
        "tests/methods/formulas/__init__.py",
        "tests/methods/formulas/coop.py",
        "tests/methods/test_heads.py",
        "results/mini/mine.csv",
        "tasks/suites/mini.yaml",
    }
    write(clone, dict.fromkeys(others, "x"))
    found = run(clone)
    assert found.returncode == 1
    assert {line.split()[0] for line in found.stderr.splitlines()} == others
    assert "results/mini/mine.csv can affect how others are ranked; a pull request" in found.stderr


def test_only_a_pull_request_that_adds_methods_alone_leaves_out_the_other_tests(
    clone: Path,
) -> None:
    def adds_only_methods() -> str:
        return run(clone, "--adds-only-methods").stdout

    assert adds_only_methods() == "adds_only_methods=no\n"
    write(clone, {"methods/mine.py": "", "tests/methods/formulas/mine.py": ""})
    assert adds_only_methods() == "adds_only_methods=yes\n"
    write(clone, {"methods/coop.py": METHOD + "# edited\n"})
    assert adds_only_methods() == "adds_only_methods=no\n"
    (clone / "methods/mine.py").unlink()
    (clone / "tests/methods/formulas/mine.py").unlink()
    assert adds_only_methods() == "adds_only_methods=no\n"  # edits a method


def test_pull_request_with_reported_rows_may_only_have_them_and_the_pages(clone: Path) -> None:
    rows = [f"results/paper-small/{name}" for name in ("reported.json", "coop.csv", "README.md")]
    pages = ["leaderboard.md", "docs/methods/coop.md", "results/report/index.html"]
    write(clone, dict.fromkeys([*rows, *pages], "x"))
    found = run(clone)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("| reported rows |") == len(rows)
    assert "| `leaderboard.md` | how others are ranked |" in found.stdout
    others = {"results/mini/coop.csv", "methods/coop.py", "tasks/suites/paper-small.yaml"}
    write(clone, dict.fromkeys(others, "x"))
    found = run(clone)
    assert found.returncode == 1
    assert {line.split()[0] for line in found.stderr.splitlines()} == others
    assert "a pull request that reports rows has only their folder" in found.stderr


def test_links_are_refused(clone: Path) -> None:
    (clone / "methods" / "far.py").symlink_to("/dev/zero")
    assert run(clone, "--methods").stdout == "\n"
    found = run(clone)
    assert found.returncode == 1
    assert "methods/far.py is a link; add the file itself" in found.stderr
