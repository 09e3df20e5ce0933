"""A small project in the layout of this one, with results of four methods, and copies of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
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
compare: [coop, simpleshot, taskres, zeroshot]
development: [mini-weather]
tuning: {rates: [1, 100], seeds: [101, 102]}
training: {views: 1, max_steps: 5}
"""
Change = Callable[[str], str]


def add_right(line: int | None, images: int = 1) -> Change:
    """Add correct answers in a line of a file (1 is the header), or in all lines."""

    def edit(text: str) -> str:
        header, *rows = (row.split(",") for row in text.splitlines())
        column = header.index("correct")
        for number, row in enumerate(rows, 2):
            if line in (None, number):
                row[column] = str(int(row[column]) + images)
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
        """Change a file of the results, which must really change."""
        before = (self.results / name).read_text()
        (self.results / name).write_text(change(before))
        assert (self.results / name).read_text() != before

    def drop_predictions(self) -> None:
        """Delete everything that could be scored again."""
        shutil.rmtree(self.folder / "runs")

    def drop(self, name: str) -> None:
        """Delete the rows of a method, what they cost, and its card."""
        (self.results / f"{name}.json").unlink()
        (self.results / f"{name}.csv").unlink()
        self.edit("costs.csv", lambda text: re.sub(rf"(?m)^{name},.*\n", "", text))

    def drop_seed(self, name: str, seed: int) -> None:
        """Delete the rows of a seed of a method, and what they cost."""
        path = self.results / f"{name}.csv"
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
        gone = rows["seed"] == str(seed)
        rows.loc[~gone].to_csv(path, index=False)
        for key in rows.loc[gone, "key"].unique():
            self.edit("costs.csv", lambda text, key=key: re.sub(rf"(?m)^.*{key}.*\n", "", text))

    def write_pages(self) -> None:
        """Write the pages that the results give now."""
        write_pages(self.folder, published_pages(ResultFiles(self.folder)))

    def move_elsewhere(self, name: str) -> None:
        """Make the rows of a method those of another machine, whose predictions are not here."""
        self.drop_predictions()
        other = '"torch": [\n   "0.1'
        self.edit(f"{name}.json", lambda text: text.replace('"torch": [\n   "', other))

    def audit(self, *options: object, cells: int = 0) -> tuple[int, str]:
        """Return the exit code of ``compatbench maintain audit``, and what it prints."""
        result = invoke("maintain audit", "--out", self.folder, "--cells", cells, *options)
        return result.exit_code, result.output

    def run(self, *words: object) -> str:
        """Run a command that is installed with this folder's content; return what it prints."""
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
    """Return a project whose cells were run here. No test may change it."""
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
    """Copy a project to a branch, and use its cards while the context lasts."""
    shutil.copytree(original.folder, root, symlinks=True)
    git(root, "checkout", "-q", "-b", "change")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPATBENCH_TASKS", str(root / "tasks"))
        forget_files()
        yield Project(root)
    forget_files()


@pytest.fixture
def project(original: Project, tmp_path: Path) -> Iterator[Project]:
    """Return a copy that a test may change."""
    with change_of(original, tmp_path / "project") as project:
        yield project
