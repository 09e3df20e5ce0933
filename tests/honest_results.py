"""A small published suite with real results, to be forged in copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import invoke
from typer.testing import Result

from compatbench.data.cards import suite_cards
from compatbench.method.registry import builtin_methods
from compatbench.pages.leaderboard import write_pages

SUITE = """\
name: tiny
title: Tiny
upgrades: [[mini-clip, mini-eva-clip]]
tasks: [mini-weather]
shots: [2]
seeds: [1, 2]
training: {views: 1, max_steps: 5}
"""
METHODS = "zeroshot,taskres,simpleshot,coop"


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
        write_pages(self.folder, suite_cards.read(self.suite))

    def edit(self, name: str, change: Callable[[str], str]) -> None:
        """Changes a file, which must really change; its folder is that of the results if unsaid."""
        path = self.folder / name if "/" in name else self.results / name
        before = path.read_text()
        after = change(before)
        assert after != before
        path.write_text(after)


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """Results as ``run`` writes them, with TaskRes through words, too; not to be changed."""
    folder = tmp_path_factory.mktemp("honest")
    (folder / "tiny.yaml").write_text(SUITE)
    with _cached(folder):
        for options in (("--methods", METHODS), ("--methods", "taskres", "--transfers", "words")):
            wanted = ["--suite", str(folder / "tiny.yaml"), "--out", str(folder), "--jobs", "1"]
            result = invoke("run", *wanted, *options)
            assert result.exit_code == 0, result.output
    assert "tiny" not in suite_cards.names()
    return Workplace(folder)


@pytest.fixture
def forged(honest: Workplace, tmp_path: Path) -> Iterator[Workplace]:
    """A copy that a test may forge; the leaderboard follows when it is asked to."""
    shutil.copytree(honest.folder / "results", tmp_path / "results")
    for name in ("tiny.yaml", "leaderboard.md"):
        shutil.copy(honest.folder / name, tmp_path)
    with _cached(honest.folder):
        yield Workplace(tmp_path)


@contextmanager
def _cached(folder: Path) -> Iterator[None]:
    builtin_methods.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMPATBENCH_CACHE", str(folder / "cache"))
        yield
