"""A clone of a small project in the layout of this one, with results of its methods."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from honest_results import SUITE, Workplace, honest, invoke

from compatbench.audit.pull_request import PullRequest, check_pull_request
from compatbench.files.project_folders import methods_folder, tasks_folder
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.pages.leaderboard import write_pages

__all__ = ["clone", "honest", "repository"]

METHODS = ("zeroshot", "taskres", "simpleshot", "coop")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


@dataclass(frozen=True)
class Clone:
    """A clone on a branch of its own, whose base is ``main``."""

    root: Path
    patch: pytest.MonkeyPatch

    @property
    def results(self) -> Path:
        return self.root / "results" / "tiny"

    def registry(self) -> MethodRegistry:
        """The clone's own method files, loaded as the package's."""
        registry = MethodRegistry()
        for path in sorted((self.root / "methods").glob("[!_]*.py")):
            name = f"compatbench.methods.{path.stem}"
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            self.patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
            own = [cls for cls in vars(module).values() if getattr(cls, "__module__", "") == name]
            registry.classes |= {cls.card.name: cls for cls in own if "card" in vars(cls)}
        return registry

    def check(self, cells: int = 0, base: str | None = None) -> PullRequest:
        """What ``compatbench ci`` finds."""
        return check_pull_request(
            self.root, base, cells=cells, seed=1, zero_shot=False, registry=self.registry()
        )

    def run(self, methods: str) -> None:
        """Adds results and leaderboard, as a contributor sends them."""
        wanted = ["--suite", "tiny", "--methods", methods, "--jobs", "1"]
        assert invoke("run", *wanted, "--out", str(self.root)).exit_code == 0
        shutil.rmtree(self.root / "runs")

    def edit(self, path: str, change: Callable[[str], str]) -> None:
        """Changes a file, which must really change."""
        file = self.root / path
        before = file.read_text()
        after = change(before)
        assert after != before
        file.write_text(after)

    def publish(self) -> None:
        """Makes the leaderboard of the results as they are."""
        write_pages(self.root)


@pytest.fixture(scope="session")
def repository(honest: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that clones are made of; not to be changed."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(honest.folder / "results", root / "results")
    shutil.copy(honest.folder / "leaderboard.md", root)
    shutil.copytree(methods_folder() / "_shared", root / "methods" / "_shared")
    for name in METHODS:
        shutil.copy(methods_folder() / f"{name}.py", root / "methods")
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
    repository: Path, honest: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Clone:
    """A clone that a test may change, with the cards and methods in force."""
    root = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(root))
    git(root, "checkout", "-q", "-b", "change")
    monkeypatch.setenv("COMPATBENCH_TASKS", str(root / "tasks"))
    monkeypatch.setenv("COMPATBENCH_CACHE", str(honest.folder / "cache"))
    monkeypatch.delenv("GITHUB_BASE_REF", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.setattr(
        "compatbench.audit.pull_request.changes.methods_folder", lambda: root / "methods"
    )
    builtin_methods.cache_clear()
    return Clone(root, monkeypatch)
