"""All fifteen datasets, cards that count what is in them, and a folder to work in."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.trees import DATASETS, EMPTY, SetUp, Sizes, Tree, build_tree, write_cards

from compatbench.data.cards import task_cards


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """All datasets, which no test may change; beside them the cards, counting their images."""
    root = tmp_path_factory.mktemp("trees")
    written = {name: build_tree(task_cards.read(name), root / "data") for name in DATASETS}
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

    def set_up(*names: str, sizes: Sizes = EMPTY) -> dict[str, Tree]:
        cards = map(task_cards.read, names)
        written = {card.name: build_tree(card, tmp_path / "data", sizes) for card in cards}
        tasks = write_cards(tmp_path / "tasks", written.values())
        monkeypatch.setenv("COMPATBENCH_TASKS", str(tasks))
        monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "data"))
        return written

    return set_up


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which nothing is known of earlier tasks."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
