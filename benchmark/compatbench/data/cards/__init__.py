"""The cards, by name: what tasks, backbones and suites there are.

The built-in ones are in ``tasks/``; a user's own are found too (``own_cards``), and a
card's path serves wherever its name does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from compatbench.data.cards.names import (
    BackboneName,
    ConfigName,
    Half,
    Name,
    half_labels,
    half_name,
    select_names,
    split_half,
    unknown_name,
    whole_name,
)
from compatbench.data.cards.own_cards import ENDINGS, OwnCard, look_at, own_cards, why_no_card
from compatbench.data.cards.schemas import COPIED, BackboneCard, SuiteCard, TaskCard, TrainingCard
from compatbench.data.cards.yaml_file import CardModel, check_place, read_card
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import add_own_place, tasks_folder

__all__ = ["COPIED", "BackboneCard", "BackboneName", "ConfigName", "Name", "SuiteCard", "TaskCard"]
__all__ += ["TrainingCard", "development_tasks", "names_elsewhere", "select_names", "unknown_name"]
__all__ += ["whole_name"]

LEAST_OF_A_HALF = 2  # classes: of one class every answer is right
AnyCard = TypeVar("AnyCard", bound=CardModel)


class Catalog(Generic[AnyCard]):
    """The cards of one kind, each a YAML file, read only when it is asked for.

    A built-in card has its file's name; one of one's own has the name that it gives itself.
    """

    def __init__(self, kind: str, model: type[AnyCard], folder: Callable[[], Path]) -> None:
        self.kind = kind
        self._model = model
        self._folder = folder

    def names(self) -> list[str]:
        """The names of all cards, sorted."""
        return sorted({*self.builtin_names(), *(card.name for card in self._own())})

    def builtin_names(self) -> list[str]:
        """The names of the cards that ship with the project, sorted."""
        names = os.listdir(folder) if (folder := self._folder()).is_dir() else []
        return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))

    def own(self) -> dict[str, OwnCard]:
        """One's own cards by their names."""
        return {card.name: card for card in self._own()}

    def _own(self) -> list[OwnCard]:
        """One's own cards of this kind; the current folder may be that of the built-in ones."""
        builtin = os.path.realpath(self._folder())
        cards = (card for path, card in own_cards().items() if os.path.dirname(path) != builtin)
        return [card for card in cards if card.kind == self.kind]

    def own_folder(self, name: str) -> Path | None:
        """The folder around one's own card of this name; None if there is no such card."""
        return card.path.parent if (card := self.own().get(name)) else None

    def path(self, name: str) -> Path:
        """The file of a card.

        Raises:
            CompatbenchError: no card has the name, or two have.
        """
        paths = sorted(card.path for card in self._own() if card.name == name)
        paths += [self._folder() / f"{name}.yaml"] * (name in self.builtin_names())
        if not paths:
            raise CompatbenchError(unknown_name(name, self.names(), self.kind))
        if len(paths) > 1:
            both = " and ".join(map(str, paths[:2]))
            raise CompatbenchError(
                f"two cards are of a {self.kind} named '{name}', {both}; rename one (its 'name')"
            )
        return paths[0]

    def resolve(self, name: str) -> str:
        """The name itself; of the path of a card, the card's name, by which it is found now."""
        if not is_card_path(name):
            return name
        card = read_card(path := Path(os.path.expanduser(name)).absolute(), self._model)
        if (seen := look_at(path)) is None or seen.kind != self.kind:
            raise CompatbenchError(why_no_card(path))
        add_own_place(path)
        return str(getattr(card, "name", seen.name))

    def resolve_all(self, wanted: str | Sequence[str]) -> list[str]:
        """The parts of a selection, with names in place of paths."""
        parts = wanted.split(",") if isinstance(wanted, str) else wanted
        return [self.resolve(part.strip()) for part in parts]

    def read(self, name: str | AnyCard) -> AnyCard:
        """Reads a card by its name, or by the path of its YAML file; a card is given back."""
        if not isinstance(name, str):
            return name
        path = Path(name) if is_card_path(name) else self.path(name)
        card = read_card(path, self._model, self.path)
        said = getattr(card, "name", name)
        if not is_card_path(name) and said != name:
            raise CompatbenchError(f"{path}: field 'name' is '{said}', not the file's name")
        return cast(
            AnyCard, _resolve_suite(card, path.parent) if isinstance(card, SuiteCard) else card
        )

    def select_names(self, wanted: str | Sequence[str]) -> list[str]:
        """The names of the cards that a selection means; it may hold paths of cards."""
        return select_names(self.resolve_all(wanted), self.names(), self.kind)

    def select(self, wanted: str | Sequence[str]) -> list[AnyCard]:
        """The cards that a selection of names and globs means."""
        return [self.read(name) for name in self.select_names(wanted)]


class TaskCatalog(Catalog[TaskCard]):
    """The cards of tasks, and those of halves of their classes."""

    def read(self, name: str | TaskCard) -> TaskCard:
        whole, half = split_half(name) if isinstance(name, str) else ("", None)
        if half is None or name in self.names():
            return super().read(name)
        return halve_card(super().read(whole), half)


def halve_card(card: TaskCard, half: Half) -> TaskCard:
    """The card of a half of a task's classes.

    Images are counted in proportion, for estimates: which class has how many is known when the
    task is loaded. The source is that of the whole task.

    Raises:
        CompatbenchError: the task has too few classes, no names of classes, or is a variant.
    """
    whose, names = f"task '{card.name}' has no base and new classes", card.names
    if card.parent is not None:
        raise CompatbenchError(f"{whose}: it is a variant; name its parent, '{card.parent}'")
    if (number := len(names)) < 2 * LEAST_OF_A_HALF:
        counted = f"{number} class{'es' * (number != 1)}"
        what = f"it has {counted}, and each half needs {LEAST_OF_A_HALF} or more"
        raise CompatbenchError(f"{whose}: {what}")
    if not any(letter.isalpha() for name in names for letter in name):
        raise CompatbenchError(
            f"{whose}: its classes have numbers for names, which say nothing about a new class; "
            "write their names in the card's 'classes'"
        )
    kept = half_labels(number, half)
    part = slice(kept.start, kept.stop)
    shares = {name: max(round(n * len(kept) / number), 1) for name, n in card.counts.items()}
    changes = {
        "name": half_name(card.name, half),
        "title": f"{card.title}, {half} classes",
        "classes": card.classes[part],
        "folders": card.folders[part],
        "namesakes": (),
        "counts": shares,
    }
    return card.model_copy(update=changes)


def is_card_path(name: str) -> bool:
    """Whether a name is the path of a card."""
    return name.endswith(ENDINGS) and "@" not in name


task_cards = TaskCatalog("task", TaskCard, tasks_folder)
backbone_cards = Catalog("backbone", BackboneCard, lambda: tasks_folder() / "backbones")
suite_cards = Catalog("suite", SuiteCard, lambda: tasks_folder() / "suites")


def _resolve_suite(card: Any, folder: Path) -> Any:
    """A suite with names in place of the paths of cards, which are relative to its folder."""

    def resolve(catalog: Catalog[Any], name: str) -> str:
        if not is_card_path(name):
            return name
        try:
            return catalog.resolve(check_place(str(folder / os.path.expanduser(name)), folder))
        except ValueError as error:
            raise CompatbenchError(f"suite '{card.name}': {error}") from None

    tasks = tuple(resolve(task_cards, name) for name in card.tasks)
    paths = [tuple(resolve(backbone_cards, name) for name in path) for path in card.upgrades]
    renamed = dict(zip(card.upgrades, paths, strict=True))
    groups = {title: tuple(map(renamed.get, listed)) for title, listed in card.groups.items()}
    return card.model_copy(update={"tasks": tasks, "upgrades": tuple(paths), "groups": groups})


def suite_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """The names of the tasks that a suite's modules are trained on, without test sets."""
    if suite.protocol == "cross-dataset":
        return _select_tasks(suite.train_on)
    tasks = _select_tasks(suite.tasks)
    halved = suite.protocol == "base-to-new"
    return tuple(half_name(task, "base") for task in tasks) if halved else tasks


def _select_tasks(wanted: Sequence[str]) -> tuple[str, ...]:
    """The tasks, without variants, that a selection means; halves are those that it names."""
    tasks = [name for name, parent in _parents().items() if parent is None]
    halves = [name for name in wanted if name not in tasks and whole_name(name) in tasks]
    return tuple(select_names(wanted, [*tasks, *halves], "task"))


def development_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """The names of the tasks on which settings are chosen, of the suite or beside it."""
    known = task_cards.names() if suite.development else []
    return tuple(select_names(suite.development, known, "development task"))


def suite_variants(suite: SuiteCard) -> dict[str, tuple[str, ...]]:
    """By task the test sets beside its own: variants, or what the protocol tests on."""
    tasks = suite_tasks(suite)
    if suite.protocol == "base-to-new":
        return {task: (half_name(whole_name(task), "new"),) for task in tasks}
    if suite.protocol == "cross-dataset":
        tested = _select_tasks(suite.tasks)
        others = {task: tuple(name for name in tested if name != task) for task in tasks}
        if alone := [task for task in tasks if not others[task]]:
            raise CompatbenchError(
                f"suite '{suite.name}': protocol 'cross-dataset' tests modules of '{alone[0]}' on "
                "other tasks; name some in 'tasks'"
            )
        return others
    parents = _parents() if suite.variants else {}
    known = [name for name, parent in parents.items() if parent is not None]
    chosen = select_names(suite.variants, known, "variant") if suite.variants else ()
    return {task: tuple(name for name in chosen if parents[name] == task) for task in tasks}


def suite_test_sets(suite: SuiteCard) -> list[str]:
    """The tasks of a suite, each followed by its variants."""
    return [name for task, more in suite_variants(suite).items() for name in (task, *more)]


def _parents() -> dict[str, str | None]:
    """The parent of every task card, as its text says; None for what is no variant."""
    paths = {name: tasks_folder() / f"{name}.yaml" for name in task_cards.builtin_names()}
    cards = {name: look_at(path) for name, path in paths.items()} | task_cards.own()
    return {name: card and card.parent for name, card in sorted(cards.items())}


def names_elsewhere(suite: SuiteCard) -> set[str]:
    """The backbones and test sets of a suite that do not ship with the project."""
    test_sets = {*suite_test_sets(suite)}
    builtin = {*task_cards.builtin_names(), *backbone_cards.builtin_names()}

    def ships(name: str) -> bool:
        if (whole := whole_name(name)) not in builtin:
            return False
        if name in test_sets:
            return task_cards.read(whole).source.kind == "drawings"
        return backbone_cards.read(name).weights is not None

    used = test_sets.union(*suite.upgrades)
    return {name for name in used if not ships(name)}
