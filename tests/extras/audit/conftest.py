"""A small project in the layout of this one: results of its methods, and clones of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import forget_files, invoke
from data.trees import copy_tasks

import compatbench as cb
from compatbench.engine.compute import Compute
from compatbench.files.project_folders import CONTENT, content_folder, shipped_results
from compatbench.results.result_files import PUBLISHED, ResultFiles
from compatbench.tables.pages.leaderboard import write_pages
from compatbench.tables.suite_page import published_pages

METHODS = ("coop", "simpleshot", "taskres", "zeroshot")
SUITE = """\
name: tiny
title: Tiny
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: [4]
seeds: [1, 2]
development: [mini-weather]
tuning: {rates: [1, 100], seeds: [101, 102]}
training: {views: 1, max_steps: 5}
"""
Change = Callable[[str], str]


def add_right(line: int | None) -> Change:
    """One more right answer in a line of a file (1 is the header), or in all lines."""

    def edit(text: str) -> str:
        header, *rows = (part.split(",") for part in text.splitlines())
        place = header.index("correct")
        for row in rows if line is None else rows[line - 2 : line - 1]:
            row[place] = str(int(row[place]) + 1)
        return "".join(",".join(row) + "\n" for row in (header, *rows))

    return edit


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, check=True)


@dataclass(frozen=True)
class Project:
    """A folder with ``results/``, ``runs/``, ``methods/`` and ``tasks/`` of its own."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    def edit(self, name: str, change: Change) -> None:
        """Changes a file of the results, which must really change."""
        before = (self.results / name).read_text()
        (self.results / name).write_text(change(before))
        assert (self.results / name).read_text() != before

    def drop_predictions(self) -> None:
        """Leaves nothing that could be scored again."""
        shutil.rmtree(self.folder / "runs")

    def audit(self, *options: object, cells: int = 0) -> tuple[int, str]:
        """The exit code of ``compatbench maintain audit``, and what it prints."""
        result = invoke("maintain audit", "--out", self.folder, "--cells", cells, *options)
        return result.exit_code, result.output

    def run(self, *words: object) -> str:
        """What a command prints that is installed with the methods and cards of this folder."""
        site = self.folder.parent / "site"
        if not site.exists():
            link_package(self.folder, site / "compatbench")
        done = subprocess.run(
            [sys.executable, "-m", "compatbench", *map(str, words), "--out", str(self.folder)],
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout


def link_package(clone: Path, package: Path) -> None:
    """Make a package of links: the installed harness, with the content and cards of a clone."""
    folders = {path.name: path for path in Path(cb.__path__[0]).iterdir()}
    folders[PUBLISHED] = shipped_results(PUBLISHED)
    folders |= {name: content_folder(name) for name in CONTENT}
    folders |= {name: clone / name for name in (*CONTENT, "tasks") if (clone / name).is_dir()}
    package.mkdir(parents=True)
    for name, folder in folders.items():
        (package / name).symlink_to(folder)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose cells were run here; not to be changed."""
    root = tmp_path_factory.mktemp("original") / "project"
    copy_tasks(root / "tasks")
    shutil.rmtree(root / "tasks" / "suites")
    (root / "tasks" / "suites").mkdir()
    (root / "tasks" / "suites" / "tiny.yaml").write_text(SUITE)
    shutil.copytree(content_folder("methods") / "_shared", root / "methods" / "_shared")
    for name in ("__init__", *METHODS):
        shutil.copy(content_folder("methods") / f"{name}.py", root / "methods")
    project = Project(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPATBENCH_TASKS", str(root / "tasks"))
        forget_files()
        cb.run("tiny", methods=METHODS, out=root, compute=Compute(jobs=1))
        write_pages(root, published_pages(ResultFiles(root)))
    forget_files()
    (root / ".gitignore").write_text("/runs/\n__pycache__/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "Begin")
    return project


@contextmanager
def change_of(original: Project, root: Path) -> Iterator[Project]:
    """A copy of a project, with its cards in force, on a branch."""
    shutil.copytree(original.folder, root, symlinks=True)
    git(root, "checkout", "-q", "-b", "change")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPATBENCH_TASKS", str(root / "tasks"))
        forget_files()
        yield Project(root)
    forget_files()


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Iterator[Project]:
    """A copy that a test may change."""
    with change_of(original, tmp_path / "project") as project:
        yield project
