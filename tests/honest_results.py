"""A small published suite with real results, to be changed in copies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
from command_line import invoke
from typer.testing import Result

import compatbench as cb
from compatbench.data.cards import suite_cards
from compatbench.engine import keys
from compatbench.engine.confined.remote import ConfinedRegistry
from compatbench.engine.compute import Compute
from compatbench.files.project_folders import content_folder, tasks_folder
from compatbench.method.registry import builtin_methods
from compatbench.results.result_files import read_methods, write_results
from compatbench.tables.leaderboard import write_pages
from compatbench.tables.suite_page import published_pages

METHODS = ("coop", "simpleshot", "taskres", "zeroshot")
SUITE = """\
name: tiny
title: Tiny
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: [2]
seeds: [1, 2]
training: {views: 1, max_steps: 5}
"""
SUITES = {
    "tiny": SUITE,
    # The same cells on another target, but of CoOp, and on one whose weights no clone has.
    "wide": "{name: wide, title: Wide, extends: tiny, upgrades: [[mini-clip, mini-clip-next]],\n"
    " methods: {coop: {recipe: {lr: 0.02}}}}\n",
    "away": "{name: away, title: Away, extends: tiny, upgrades: [[mini-clip, eva02-b16]]}\n",
}


@dataclass(frozen=True)
class Project:
    """A folder with ``results/`` and ``tasks/`` of its own."""

    folder: Path

    @property
    def cache(self) -> Path:
        """Beside the folder, so that copies share it."""
        return self.folder.parent / "cache"

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """With its own cards, and a cache beside the folder."""
        tasks, cache = str(self.folder / "tasks"), str(self.cache)
        with patch.dict(os.environ, COMPATBENCH_TASKS=tasks, COMPATBENCH_CACHE=cache):
            _forget_keys()
            try:
                yield
            finally:
                _forget_keys()


@dataclass(frozen=True)
class Workplace:
    """A folder with results, their leaderboard, and the suite they are of."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results" / "tiny"

    @property
    def suite(self) -> str:
        return str(self.folder / "tiny.yaml")

    def audit(self, *options: str, cells: int = 0) -> Result:
        """Audits it; without cells to run again, unless told otherwise."""
        wanted = ["--suite", self.suite, "--cells", str(cells), "--seed", "7"]
        return invoke("audit", "--out", str(self.folder), *wanted, *options)

    def publish(self) -> None:
        """Makes the leaderboard of the results as they are."""
        write_pages(self.folder, published_pages(self.folder, suite_cards.read(self.suite)))

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Changes a file, which must really change; its folder is that of the results if unsaid."""
        path = self.folder / name if "/" in name else self.results / name
        before = path.read_text()
        after = change(before)
        assert after != before
        path.write_text(after)


def _forget_keys() -> None:
    """A process takes cards for unchanged; here each project has its own."""
    for value in vars(keys).values():
        if callable(clear := getattr(value, "cache_clear", None)):
            clear()


def make_honest(folder: Path) -> Project:
    """A project in a new folder, whose cells are measured.

    Of ``tiny/taskres.csv`` lines 2 and 3 are seed 1 on the source and on the target, and 4 and 5
    seed 2; 6 to 9 are the same through words.
    """
    shutil.copytree(tasks_folder(), folder / "tasks", ignore=shutil.ignore_patterns("build"))
    shutil.rmtree(folder / "tasks" / "suites")
    (folder / "tasks" / "suites").mkdir()
    for name, text in SUITES.items():
        (folder / "tasks" / "suites" / f"{name}.yaml").write_text(text)
    project = Project(folder)
    with project.in_force():
        here = {"out": folder, "compute": Compute(jobs=1)}
        cb.run("tiny", methods=METHODS, **here)
        cb.run("tiny", methods=["taskres"], transfers=["words"], **here)
        cb.run("wide", methods=METHODS, **here)
    shutil.rmtree(folder / "runs")
    return project


def invent_suite(folder: Path) -> None:
    """Adds a suite whose weights nobody has here, with numbers of another."""
    away = folder / "results" / "away"
    shutil.copytree(folder / "results" / "tiny", away)
    for path in sorted(away.glob("*.csv")):
        path.write_text(path.read_text().replace("mini-eva-clip", "eva02-b16"))
    for method in read_methods(away).values():
        write_results(away, method)  # in the order of their names


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two suites; not to be changed."""
    builtin_methods.cache_clear()
    return make_honest(tmp_path_factory.mktemp("honest") / "project")


@pytest.fixture(scope="session")
def honest(project: Project) -> Workplace:
    """Its first suite alone, from a file of its own; not to be changed."""
    place = Workplace(project.folder.parent / "suite")
    shutil.copytree(project.folder / "results" / "tiny", place.results)
    (place.folder / "tiny.yaml").write_text(SUITE)
    place.publish()
    assert "tiny" not in suite_cards.names()
    return place


@pytest.fixture(scope="session")
def few_methods() -> ConfinedRegistry:
    """The processes of the project's methods, which serve all audits."""
    return ConfinedRegistry([content_folder("methods") / f"{name}.py" for name in METHODS])


@pytest.fixture
def forged(
    project: Project,
    honest: Workplace,
    few_methods: ConfinedRegistry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Workplace]:
    """A copy that a test may forge; the leaderboard follows when it is asked to."""
    monkeypatch.setattr("compatbench.extras.audit.audit.ConfinedRegistry", lambda: few_methods)
    shutil.copytree(honest.folder / "results", tmp_path / "results")
    for name in ("tiny.yaml", "leaderboard.md"):
        shutil.copy(honest.folder / name, tmp_path)
    with _cached(project.cache):
        yield Workplace(tmp_path)


@contextmanager
def _cached(folder: Path) -> Iterator[None]:
    builtin_methods.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPATBENCH_CACHE", str(folder))
        yield
