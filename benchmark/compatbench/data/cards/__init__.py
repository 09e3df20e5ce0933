"""The cards in ``tasks/``, by name: what tasks, backbones and suites there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from compatbench.data.cards.names import BackboneName, ConfigName, Name, select_names, unknown_name
from compatbench.data.cards.schemas import COPIED, BackboneCard, SuiteCard, TaskCard, TrainingCard
from compatbench.data.cards.yaml_file import CardModel, read_card
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import tasks_folder

__all__ = ["COPIED", "BackboneCard", "BackboneName", "ConfigName", "Name", "SuiteCard", "TaskCard"]
__all__ += ["TrainingCard", "development_tasks", "names_elsewhere", "select_names", "unknown_name"]

AnyCard = TypeVar("AnyCard", bound=CardModel)


class Catalog(Generic[AnyCard]):
    """The cards of one kind, each a YAML file of its name, read only when it is asked for."""

    def __init__(self, kind: str, model: type[AnyCard], folder: Callable[[], Path]) -> None:
        self.kind = kind
        self._model = model
        self._folder = folder

    def names(self) -> list[str]:
        """The names of all cards, sorted."""
        names = os.listdir(folder) if (folder := self._folder()).is_dir() else []
        return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))

    def read(self, name: str) -> AnyCard:
        """Reads a card by its name, or by the path of its YAML file."""
        if name.endswith((".yaml", ".yml")):
            return read_card(Path(name), self._model, self._folder())
        if name not in (names := self.names()):
            raise CompatbenchError(unknown_name(name, names, self.kind))
        path = self._folder() / f"{name}.yaml"
        card = read_card(path, self._model)
        if (given := getattr(card, "name", name)) != name:
            raise CompatbenchError(f"{path}: field 'name' is '{given}', not the file's name")
        return card

    def select_names(self, wanted: str | Sequence[str]) -> list[str]:
        """The names of the cards that a selection means."""
        return select_names(wanted, self.names(), self.kind)

    def select(self, wanted: str | Sequence[str]) -> list[AnyCard]:
        """The cards that a selection of names and globs means."""
        return [self.read(name) for name in self.select_names(wanted)]


task_cards = Catalog("task", TaskCard, tasks_folder)
backbone_cards = Catalog("backbone", BackboneCard, lambda: tasks_folder() / "backbones")
suite_cards = Catalog("suite", SuiteCard, lambda: tasks_folder() / "suites")


def suite_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """The names of the suite's tasks, without variants."""
    tasks = [name for name, parent in _parents(tasks_folder()).items() if parent is None]
    return tuple(select_names(suite.tasks, tasks, "task"))


def development_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """The names of those of the suite's tasks on which settings and methods are chosen."""
    if not suite.development:
        return ()
    chosen = select_names(suite.development, task_cards.names(), "development task")
    return tuple(name for name in suite_tasks(suite) if name in chosen)


def suite_variants(suite: SuiteCard, task: str) -> tuple[str, ...]:
    """The names of the suite's variants of a task."""
    if not suite.variants:
        return ()
    parents = _parents(tasks_folder())
    variants = [name for name, parent in parents.items() if parent is not None]
    chosen = select_names(suite.variants, variants, "variant")
    return tuple(name for name in chosen if parents[name] == task)


@lru_cache(maxsize=4)
def _parents(folder: Path) -> dict[str, str | None]:
    """The parent of every task card; None for what is no variant."""
    return {card.name: card.parent for card in task_cards.select("all")}


def names_elsewhere(suite: SuiteCard) -> set[str]:
    """The backbones and test sets of a suite that do not ship with the cards."""
    backbones = {name for path in suite.upgrades for name in path}
    tasks = suite_tasks(suite)
    test_sets = {name for task in tasks for name in (task, *suite_variants(suite, task))}
    shipped = {
        name for name in backbones & {*backbone_cards.names()} if backbone_cards.read(name).weights
    }
    shipped |= {name for name in test_sets if task_cards.read(name).source.kind == "drawings"}
    return (backbones | test_sets) - shipped
