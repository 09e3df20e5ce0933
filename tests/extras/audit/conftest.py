"""A clone of a small project in the layout of this one, with results of its methods."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
from command_line import invoke
from honest_results import SUITE, Project, Workplace, few_methods, forged, honest, project

from compatbench.extras.audit.pull_request import PullRequest, check_pull_request
from compatbench.files.project_folders import content_folder, tasks_folder
from compatbench.method.registry import builtin_methods
from compatbench.tables.leaderboard import write_pages

__all__ = ["clone", "few_methods", "forged", "honest", "project", "repository"]

Change = Callable[[str], str]


def set_field(line: int | None, column: str, change: Callable[[str], object]) -> Change:
    """Changes one field of a line (1 is the header), or of all lines."""

    def edit(text: str) -> str:
        header, *rows = (part.split(",") for part in text.splitlines())
        for row in rows if line is None else rows[line - 2 : line - 1]:
            row[header.index(column)] = str(change(row[header.index(column)]))
        return "".join(",".join(row) + "\n" for row in (header, *rows))

    return edit


METHODS = ("zeroshot", "taskres", "simpleshot", "coop")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


class Clone(Workplace):
    """A clone on a branch of its own, whose base is ``main``."""

    def publish(self) -> None:
        write_pages(self.folder)

    def check(
        self, cells: int | None = 0, base: str | None = None, minutes: float = 10
    ) -> PullRequest:
        """What ``compatbench ci`` finds; it imports none of the clone's methods."""
        _forget_methods()
        found = check_pull_request(
            self.folder, base, cells=cells, minutes=minutes, seed=1, zero_shot=False
        )
        assert not _forget_methods()
        return found

    def run(self, methods: str, *options: str) -> None:
        """Adds results and leaderboard, as a contributor sends them."""
        _forget_methods()
        importlib.invalidate_caches()
        builtin_methods.cache_clear()
        wanted = ["--suite", "tiny", "--methods", methods, "--jobs", "1", *options]
        assert invoke("run", *wanted, "--out", str(self.folder)).exit_code == 0
        shutil.rmtree(self.folder / "runs")

    def remove(self, method: str) -> None:
        """Removes the results of a method."""
        for kind in ("csv", "cost.csv", "json"):
            (self.results / f"{method}.{kind}").unlink()

    def commit_to_base(self) -> None:
        """Makes the clone as it is the base of a new branch."""
        git(self.folder, "checkout", "-q", "main")
        git(self.folder, "add", "-A")
        git(self.folder, "commit", "-q", "-m", "Add what is here")
        git(self.folder, "checkout", "-q", "-b", "newer")


@pytest.fixture(scope="session")
def repository(honest: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that clones are made of; not to be changed."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(honest.folder / "results", root / "results")
    shutil.copy(honest.folder / "leaderboard.md", root)
    shutil.copytree(content_folder("methods") / "_shared", root / "methods" / "_shared")
    for name in METHODS:
        shutil.copy(content_folder("methods") / f"{name}.py", root / "methods")
    for folder in (".", "backbones", "suites"):
        (root / "tasks" / folder).mkdir(parents=True, exist_ok=True)
        for card in (tasks_folder() / folder).glob("*.yaml"):
            if folder != "suites":
                shutil.copy(card, root / "tasks" / folder)
    (root / "tasks" / "suites" / "tiny.yaml").write_text(SUITE)
    (root / "tasks" / "mini").symlink_to(tasks_folder() / "mini")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Begin")
    return root


@pytest.fixture
def clone(
    repository: Path, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Clone]:
    """A clone that a test may change, with the cards and methods in force."""
    root = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(root))
    git(root, "checkout", "-q", "-b", "change")
    monkeypatch.setenv("COMPATBENCH_TASKS", str(root / "tasks"))
    monkeypatch.setenv("COMPATBENCH_CACHE", str(project.cache))
    monkeypatch.delenv("GITHUB_BASE_REF", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    methods = root / "methods"
    for module in ("method.identity", "method.registry"):
        monkeypatch.setattr(f"compatbench.{module}.content_folder", lambda: methods)
    monkeypatch.setattr(
        "compatbench.method.registry.content_files", lambda: sorted(methods.glob("[!_]*.py"))
    )
    monkeypatch.setattr(import_module("compatbench.methods"), "__path__", [str(methods)])
    # A file that is edited twice in a second has one time of change, and one compiled file.
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    installed = _forget_methods()
    builtin_methods.cache_clear()
    yield Clone(root)
    _forget_methods()
    sys.modules.update(installed)
    builtin_methods.cache_clear()


def _forget_methods() -> dict[str, ModuleType]:
    """Takes the modules of all methods out of ``sys.modules``, and returns them."""
    names = [name for name in sys.modules if name.startswith("compatbench.methods.")]
    return {name: sys.modules.pop(name) for name in names}
