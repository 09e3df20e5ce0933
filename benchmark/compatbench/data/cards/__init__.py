"""The cards of tasks, backbones and suites, found by name.

The built-in ones are in ``tasks/``. A user's own cards are found too (``own_cards``), and a card's
path is accepted wherever its name is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
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
from compatbench.data.cards.sources import OnDisk
from compatbench.data.cards.yaml_file import CardModel, check_place, read_card
from compatbench.errors import CompatbenchError
from compatbench.files.project_folders import add_own_place, tasks_folder

__all__ = ["COPIED", "BackboneCard", "BackboneName", "ConfigName", "Name", "SuiteCard", "TaskCard"]
__all__ += ["TrainingCard", "development_tasks", "names_elsewhere", "select_names", "unknown_name"]
__all__ += ["whole_name"]

# How an object in memory gets a name, by kind.
_FROM_MEMORY = {
    "suite": "; for images in memory: cb.task(images, labels, names)",
    "task": "; make a task of images in memory: cb.task(images, labels, names)",
    "backbone": (
        "; make a backbone of a model in memory: cb.as_backbone(model, preprocess, tokenizer)"
    ),
}
LEAST_OF_A_HALF = 2  # classes: with one class, every answer would be right
AnyCard = TypeVar("AnyCard", bound=CardModel)


class Catalog(Generic[AnyCard]):
    """The cards of one kind, each a YAML file that is read only when it is needed.

    A built-in card has its file's name. A user's own card has the name in its field ``name``.
    """

    def __init__(self, kind: str, model: type[AnyCard], folder: Callable[[], Path]) -> None:
        self.kind = kind
        self._model = model
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names of all cards, sorted."""
        names = {*self.builtin_names(), *self.own()}
        return sorted(names)

    def builtin_names(self) -> list[str]:
        """Return the names of the cards that ship with the project, sorted."""
        folder = self._folder()
        if not folder.is_dir():
            return []
        files = os.listdir(folder)
        return sorted(file.removesuffix(".yaml") for file in files if file.endswith(".yaml"))

    def own(self) -> dict[str, OwnCard]:
        """Return the user's own cards by their names."""
        return {card.name: card for card in self._own()}

    def _own(self) -> list[OwnCard]:
        """Return the user's own cards of this kind, of which several may have the same name."""
        builtin = os.path.realpath(self._folder())
        cards = []
        for path, card in own_cards().items():
            # The current folder is searched, and may be the folder of the built-in cards.
            is_builtin = os.path.dirname(path) == builtin
            if card.kind == self.kind and not is_builtin:
                cards.append(card)
        return cards

    def own_folder(self, name: str) -> Path | None:
        """Return the folder of the user's own card of this name; None if there is no such card."""
        card = self.own().get(name)
        return card.path.parent if card else None

    def path(self, name: str) -> Path:
        """Return the file of a card.

        Raises:
            CompatbenchError: no card has the name, or two cards have it.
        """
        paths = sorted(card.path for card in self._own() if card.name == name)
        if name in self.builtin_names():
            paths.append(self._folder() / f"{name}.yaml")
        if not paths:
            raise CompatbenchError(unknown_name(name, self.names(), self.kind))
        if len(paths) > 1:
            both = " and ".join(map(str, paths[:2]))
            raise CompatbenchError(
                f"two cards are of a {self.kind} named '{name}', {both}; rename one (its 'name')"
            )
        return paths[0]

    def _require_name(self, name: object) -> str:
        """Return a name or path as plain text; raise CompatbenchError for any other object."""
        if isinstance(name, os.PathLike):
            name = os.fspath(name)
        if isinstance(name, str):
            return str(name)  # of a task or a model that was in memory, the name alone
        problem = f"a {self.kind} is given by its name, not by a {type(name).__name__}"
        raise CompatbenchError(f"{problem}{_FROM_MEMORY[self.kind]}")

    def resolve(self, name: str | os.PathLike[str]) -> str:
        """Return the name itself. Of the path of a card, make the card known, and return its name.

        Raises:
            CompatbenchError: the file holds no card of this kind, or an object is given in place
                of a name.
        """
        name = self._require_name(name)
        if not is_card_path(name):
            return name
        path = Path(os.path.expanduser(name)).absolute()
        card = read_card(path, self._model)
        found = look_at(path)
        if found is None or found.kind != self.kind:
            raise CompatbenchError(why_no_card(path))
        add_own_place(path)
        return str(getattr(card, "name", found.name))

    def resolve_all(self, selection: str | Sequence[str]) -> list[str]:
        """Return the parts of a selection, with names in place of paths."""
        if isinstance(selection, str):
            selection = selection.split(",")
        elif not isinstance(selection, Iterable):
            selection = [selection]  # the error says what to give
        parts = [part.strip() if isinstance(part, str) else part for part in selection]
        return [self.resolve(part) for part in parts]

    def read(self, name: str | AnyCard) -> AnyCard:
        """Read a card by its name, or by the path of its YAML file. Return a card as it is."""
        if isinstance(name, self._model):
            return name
        name = self._require_name(name)
        is_path = is_card_path(name)
        path = Path(name) if is_path else self.path(name)
        card = read_card(path, self._model, self.path)
        stated_name = getattr(card, "name", name)
        if not is_path and stated_name != name:
            raise CompatbenchError(f"{path}: field 'name' is '{stated_name}', not the file's name")
        if isinstance(card, SuiteCard):
            return cast(AnyCard, _resolve_suite(card, path.parent))
        return card

    def select_names(self, selection: str | Sequence[str]) -> list[str]:
        """Return the names of the selected cards; the selection may contain paths of cards."""
        return select_names(self.resolve_all(selection), self.names(), self.kind)

    def select(self, selection: str | Sequence[str]) -> list[AnyCard]:
        """Return the cards that names and globs select."""
        return [self.read(name) for name in self.select_names(selection)]


class TaskCatalog(Catalog[TaskCard]):
    """The cards of tasks, and of halves of their classes."""

    def read(self, name: str | TaskCard) -> TaskCard:
        if isinstance(name, TaskCard):
            return name
        name = self._require_name(name)
        whole, half = split_half(name)
        # A user's own task may have a name that looks like a half.
        if half is None or name in self.names():
            return super().read(name)
        return halve_card(super().read(whole), half)


def halve_card(card: TaskCard, half: Half) -> TaskCard:
    """Return the card of a half of a task's classes.

    Its image counts are estimates, in proportion to the classes: the true ones are known when the
    task is loaded. The source is that of the whole task.

    Raises:
        CompatbenchError: the task has too few classes, no names of classes, or is a variant.
    """
    problem = f"task '{card.name}' has no base and new classes"
    names = card.names
    number = len(names)
    if card.parent is not None:
        raise CompatbenchError(f"{problem}: it is a variant; name its parent, '{card.parent}'")
    if number < 2 * LEAST_OF_A_HALF:
        classes = "1 class" if number == 1 else f"{number} classes"
        raise CompatbenchError(
            f"{problem}: it has {classes}, and each half needs {LEAST_OF_A_HALF} or more"
        )
    if not any(letter.isalpha() for letter in "".join(names)):
        raise CompatbenchError(
            f"{problem}: its classes have numbers for names, which say nothing about a new class; "
            "write their names in the card's 'classes'"
        )
    kept = half_labels(number, half)
    part = slice(kept.start, kept.stop)
    counts = {}
    for split, images in card.counts.items():
        share = round(images * len(kept) / number)
        counts[split] = max(share, 1)
    changes = {
        "name": half_name(card.name, half),
        "title": f"{card.title}, {half} classes",
        "classes": card.classes[part],
        "folders": card.folders[part],
        "namesakes": (),
        "counts": counts,
    }
    return card.model_copy(update=changes)


def is_card_path(name: str) -> bool:
    """Return True if a name is the path of a card."""
    return name.endswith(ENDINGS) and "@" not in name


task_cards = TaskCatalog("task", TaskCard, tasks_folder)
backbone_cards = Catalog("backbone", BackboneCard, lambda: tasks_folder() / "backbones")
suite_cards = Catalog("suite", SuiteCard, lambda: tasks_folder() / "suites")


def _resolve_suite(card: Any, folder: Path) -> Any:
    """Return a suite with names in place of paths of cards, which are relative to its folder."""

    def resolve(catalog: Catalog[Any], name: str) -> str:
        if not is_card_path(name):
            return name
        path = str(folder / os.path.expanduser(name))
        try:
            return catalog.resolve(check_place(path, folder))
        except ValueError as error:
            raise CompatbenchError(f"suite '{card.name}': {error}") from None

    tasks = tuple(resolve(task_cards, name) for name in card.tasks)
    renamed = {}
    for path in card.upgrades:
        renamed[path] = tuple(resolve(backbone_cards, name) for name in path)
    groups = {}
    for title, paths in card.groups.items():
        groups[title] = tuple(map(renamed.get, paths))
    update = {
        "tasks": tasks,
        "upgrades": tuple(renamed[path] for path in card.upgrades),
        "more_upgrades": tuple(renamed[path] for path in card.more_upgrades),
        "groups": groups,
    }
    return card.model_copy(update=update)


def suite_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """Return the names of the tasks on which a suite's modules are trained, without test sets."""
    if suite.protocol == "cross-dataset":
        return _select_tasks(suite.train_on)
    tasks = _select_tasks(suite.tasks)
    if suite.protocol == "base-to-new":
        return tuple(half_name(task, "base") for task in tasks)
    return tasks


def _select_tasks(selection: Sequence[str]) -> tuple[str, ...]:
    """Return the selected tasks, without variants. Halves must be selected by their full names."""
    tasks = [name for name, parent in _parents().items() if parent is None]
    known = list(tasks)
    for name in selection:
        if name not in tasks and whole_name(name) in tasks:
            known.append(name)
    return tuple(select_names(selection, known, "task"))


def development_tasks(suite: SuiteCard) -> tuple[str, ...]:
    """Return the names of the tasks on which settings are chosen, of the suite or beside it."""
    if not suite.development:
        return ()
    return tuple(select_names(suite.development, task_cards.names(), "development task"))


def suite_variants(suite: SuiteCard) -> dict[str, tuple[str, ...]]:
    """Return the further test sets of each task: its variants, or those of the protocol."""
    tasks = suite_tasks(suite)
    if suite.protocol == "base-to-new":
        new_halves = {}
        for task in tasks:
            new_halves[task] = (half_name(whole_name(task), "new"),)
        return new_halves
    if suite.protocol == "cross-dataset":
        tested = _select_tasks(suite.tasks)
        others = {}
        for task in tasks:
            others[task] = tuple(name for name in tested if name != task)
            if not others[task]:
                raise CompatbenchError(
                    f"suite '{suite.name}': protocol 'cross-dataset' tests modules of '{task}' on "
                    "other tasks; name some in 'tasks'"
                )
        return others
    if not suite.variants:
        return dict.fromkeys(tasks, ())
    parents = _parents()
    known = [name for name, parent in parents.items() if parent is not None]
    chosen = select_names(suite.variants, known, "variant")
    variants = {}
    for task in tasks:
        variants[task] = tuple(name for name in chosen if parents[name] == task)
    return variants


def suite_test_sets(suite: SuiteCard) -> list[str]:
    """Return the tasks of a suite, each followed by its variants."""
    names = []
    for task, variants in suite_variants(suite).items():
        names.append(task)
        names += variants
    return names


def _parents() -> dict[str, str | None]:
    """Return the parent of every task card, read from its text; None for a task."""
    cards: dict[str, OwnCard | None] = {}
    for name in task_cards.builtin_names():
        cards[name] = look_at(tasks_folder() / f"{name}.yaml")
    cards |= task_cards.own()
    parents = {}
    for name, card in sorted(cards.items()):
        parents[name] = card.parent if card else None
    return parents


def names_elsewhere(suite: SuiteCard) -> set[str]:
    """Return the backbones and test sets of a suite that do not ship with the project."""
    test_sets = {*suite_test_sets(suite)}
    builtin = {*task_cards.builtin_names(), *backbone_cards.builtin_names()}

    def ships(name: str) -> bool:
        whole = whole_name(name)
        if whole not in builtin:
            return False
        if name in test_sets:
            return not isinstance(task_cards.read(whole).source, OnDisk)
        return backbone_cards.read(name).weights is not None

    names = test_sets.union(*suite.upgrades)
    return {name for name in names if not ships(name)}
