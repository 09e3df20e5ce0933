"""A small published suite with real results, to be changed in copies."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import invoke
from typer.testing import Result

from compatbench.data.cards import suite_cards
from compatbench.engine.confined.remote import ConfinedRegistry
from compatbench.files.project_folders import content_folder
from compatbench.method.registry import builtin_methods
from compatbench.tables.leaderboard import write_pages
from compatbench.tables.suite_page import published_pages

sys.path.append(str(Path(__file__).parents[1] / "benchmark" / "faults"))

from forged_project import METHODS, SUITE, Project, make_honest


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


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two suites, whose copies are forged; not to be changed."""
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
