"""Small copies of all fifteen datasets, their cards, and a folder to work in."""

from __future__ import annotations

from pathlib import Path

import pytest
from data.trees import DATASETS, SetUp, Tree, build_tree, write_cards

from compatbench.data.cards import task_cards


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    """All datasets and their cards; no test may change them."""
    root = tmp_path_factory.mktemp("trees")
    written = {name: build_tree(task_cards.read(name), root / "data") for name in DATASETS}
    write_cards(root / "tasks", written.values())
    return written


@pytest.fixture
def data(trees: dict[str, Tree], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tree]:
    """The same datasets, with the environment pointing to them."""
    root = trees["dtd"].folder.parents[1]
    monkeypatch.setenv("COMPATBENCH_TASKS", str(root / "tasks"))
    monkeypatch.setenv("COMPATBENCH_DATA", str(root / "data"))
    return trees


@pytest.fixture
def set_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetUp:
    """Write a dataset that the test may change, and point the environment to it."""

    def set_up(name: str, pictures: bool = False, **sizes: int) -> Tree:
        tree = build_tree(task_cards.read(name), tmp_path / "data", **sizes, pictures=pictures)
        tasks = write_cards(tmp_path / "tasks", [tree])
        monkeypatch.setenv("COMPATBENCH_TASKS", str(tasks))
        monkeypatch.setenv("COMPATBENCH_DATA", str(tmp_path / "data"))
        return tree

    return set_up


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
