"""A data root with all fifteen datasets, and cards that count what is in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from data.trees import DATASETS, Sizes, Tree, build_tree, write_cards

from compatbench.data import task

# Writes some of the datasets anew, and points to them.
SetUp = Callable[..., dict[str, Tree]]

EMPTY = Sizes(pictures=False)


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """All datasets, which no test may change; beside them the cards, counting their images."""
    root = tmp_path_factory.mktemp("trees")
    written = {name: build_tree(name, root / "data") for name in DATASETS}
    write_cards(root / "tasks", written.values())
    return written


@pytest.fixture
def data(trees: dict[str, Tree], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tree]:
    """The trees, to which the environment points."""
    root = trees["dtd"].folder.parents[1]
    monkeypatch.setenv("COMPATBENCH_TASKS", str(root / "tasks"))
    monkeypatch.setenv("COMPATBENCH_DATA", str(root / "data"))
    return trees


@pytest.fixture
def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetUp:
    """Writes datasets that the test may spoil, and points the environment to them."""

    def write(*names: str, sizes: Sizes = EMPTY) -> dict[str, Tree]:
        written = {name: build_tree(name, tmp_path / "data", sizes) for name in names}
        cards = write_cards(tmp_path / "tasks", written.values())
        monkeypatch.setenv("COMPATBENCH_TASKS", str(cards))
        monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "data"))
        return written

    return write


def load_again() -> None:
    """Forgets the tasks that were loaded."""
    task._load.cache_clear()
