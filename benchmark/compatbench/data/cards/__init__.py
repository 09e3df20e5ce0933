"""The cards in ``tasks/``: what tasks, backbones and suites there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from compatbench.data.cards.backbone import BackboneCard
from compatbench.data.cards.select import select_names, unknown_name
from compatbench.data.cards.suite import SuiteCard, TrainingCard
from compatbench.data.cards.task import TaskCard
from compatbench.data.cards.yamlfile import CardModel, read_card
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import tasks_folder

__all__ = [
    "BackboneCard",
    "Catalog",
    "SuiteCard",
    "TaskCard",
    "TrainingCard",
    "backbone_cards",
    "select_names",
    "suite_cards",
    "task_cards",
]


AnyCard = TypeVar("AnyCard", bound=CardModel)


class Catalog(Generic[AnyCard]):
    """The cards of one kind: one YAML file each, read when asked for.

    A card's name is its file's name, so a listing needs no reading and a broken
    card harms only those who ask for it.
    """

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
        if name.endswith((".yaml", ".yml")):
            return read_card(Path(name), self._model)
        if name not in self.names():
            raise CompatbenchError(unknown_name(name, self.names(), self.kind))
        path = self._folder() / f"{name}.yaml"
        card = read_card(path, self._model)
        if (said := getattr(card, "name", name)) != name:
            raise CompatbenchError(
                f"{path}: field 'name' is '{said}'; it must equal the file's name"
            )
        return card

    def select(self, wanted: str | tuple[str, ...]) -> list[AnyCard]:
        """The cards that a selection of names and globs means."""
        return [self.read(name) for name in select_names(wanted, self.names(), self.kind)]


task_cards = Catalog("task", TaskCard, tasks_folder)
backbone_cards = Catalog("backbone", BackboneCard, lambda: tasks_folder() / "backbones")
suite_cards = Catalog("suite", SuiteCard, lambda: tasks_folder() / "suites")
