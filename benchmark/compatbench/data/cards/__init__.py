"""The cards in ``tasks/``, by name: what tasks, backbones and suites there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Generic, TypeVar

from compatbench.data.cards.backbone import BackboneCard
from compatbench.data.cards.names import BackboneName as BackboneName
from compatbench.data.cards.names import Name as Name
from compatbench.data.cards.names import select_names, unknown_name
from compatbench.data.cards.suite import SuiteCard
from compatbench.data.cards.suite import TrainingCard as TrainingCard
from compatbench.data.cards.task import TaskCard
from compatbench.data.cards.yaml_file import CardModel, read_card
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import TASKS_VARIABLE, tasks_folder

AnyCard = TypeVar("AnyCard", bound=CardModel)


class Catalog(Generic[AnyCard]):
    """The cards of one kind, each a YAML file of its name, read only when it is asked for."""

    def __init__(self, kind: str, model: type[AnyCard], folder: Callable[[], Path]) -> None:
        self.kind = kind
        self._model = model
        self._folder = folder

    def names(self) -> list[str]:
        """The names of all cards, sorted."""
        return sorted(path.stem for path in self._folder().glob("*.yaml"))

    def read(self, name: str) -> AnyCard:
        """Reads a card by its name, or by the path of its YAML file.

        Raises:
            CompatbenchError: no such card, or a card that breaks its schema.
        """
        folder = self._folder()
        if name.endswith((".yaml", ".yml")):
            return read_card(Path(name), self._model, folder)
        if name not in (names := self._some_names()):
            raise CompatbenchError(unknown_name(name, names, self.kind))
        path = folder / f"{name}.yaml"
        card = read_card(path, self._model)
        if (given := getattr(card, "name", name)) != name:
            problem = f"field 'name' is '{given}'; it must equal the file's name"
            raise CompatbenchError(f"{path}: {problem}")
        return card

    def select_names(self, wanted: str | Sequence[str]) -> list[str]:
        """The names of the cards that a selection means."""
        return select_names(wanted, self._some_names(), self.kind)

    def select(self, wanted: str | Sequence[str]) -> list[AnyCard]:
        """The cards that a selection of names and globs means."""
        return [self.read(name) for name in self.select_names(wanted)]

    def _some_names(self) -> list[str]:
        if names := self.names():
            return names
        given = f"; {TASKS_VARIABLE} names it" if os.environ.get(TASKS_VARIABLE) else ""
        raise CompatbenchError(f"folder {self._folder()} has no {self.kind} cards{given}")


task_cards = Catalog("task", TaskCard, tasks_folder)
backbone_cards = Catalog("backbone", BackboneCard, lambda: tasks_folder() / "backbones")
suite_cards = Catalog("suite", SuiteCard, lambda: tasks_folder() / "suites")


def suite_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """The names of the suite's tasks, without variants."""
    tasks = [name for name, parent in _parents(tasks_folder()).items() if parent is None]
    return tuple(select_names(suite.tasks, tasks, "task"))


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
