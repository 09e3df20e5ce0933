"""Make ``docs/recipes.csv``: every setting of the published recipes beside that of suite ``paper``.

Published settings were read in the authors' scripts, and are in
``benchmark/research/recipes/<method>.yaml``. Ours are those of the suite. The page of a method has
the settings that differ, with the reason.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pages import Page
from pydantic import BeforeValidator

from compatbench.data.cards import SuiteCard, suite_cards, task_cards
from compatbench.data.cards.yaml_file import CardModel, read_card
from compatbench.engine.method_settings import resolve_settings
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.tables.numbers import NOTHING

RECIPES = Path(__file__).parent / "recipes"
SUITE = "paper"
AS_PUBLISHED = "as published"
HEADER = ["Setting", "Datasets", "Published", "Source", "Ours", "Why"]

# A value for each task: ``{'*': 1.17, flowers102: 10, 'dtd,eurosat': 2}``, or one for all.
PerTask = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: value if isinstance(value, dict) else {"*": value}),
]


class Setting(CardModel):
    """One setting of a method."""

    name: str  # a description
    # The path of our value in the method's settings (``recipe.lr``), in its ``training``, or in the
    # card of the ``task`` (``task.templates.0``); empty if there is no such setting.
    field: str = ""
    published: PerTask
    source: str  # a file of the authors' repository, or a section of the paper
    theirs: str = ""  # the value in the authors' ``files``, as an expression of the names there
    ours: PerTask = {}  # our value in words, if there is no field and ours differs
    deviation: PerTask = {}  # the reason, if ours differs


class PublishedRecipe(CardModel):
    """The settings with which a method's authors run it."""

    method: str
    repository: str  # owner/name; empty if no code is public
    note: str = ""  # the authors' protocol, if it is not the few-shot one
    files: dict[str, PerTask] = {}  # of the settings; see benchmark/authors/configurations.py
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Row:
    """A setting on a task."""

    setting: Setting
    task: str
    published: Any
    ours: Any  # as published, if there are no words for it
    deviation: str

    @property
    def differs(self) -> bool:
        """Return True if our value is not the published one."""
        return self.ours != self.published


def read_recipes() -> dict[str, PublishedRecipe]:
    """Return the published recipes by the method's name."""
    return {path.stem: read_card(path, PublishedRecipe) for path in sorted(RECIPES.glob("*.yaml"))}


def compare(recipe: PublishedRecipe, suite: SuiteCard, registry: MethodRegistry) -> list[Row]:
    """Return every setting on every task of the suite."""
    rows = []
    for task in suite.tasks:
        config = settings_on(recipe.method, suite, task, registry)
        for setting in recipe.settings:
            published = value_on(setting.published, task)
            ours = value_on(setting.ours, task, published)
            if setting.field:
                ours = _find(config, setting.field, max(suite.shots))
            reason = value_on(setting.deviation, task, "")
            rows.append(Row(setting, task, published, ours, reason))
    return rows


def list_defaults(recipe: PublishedRecipe, registry: MethodRegistry) -> list[dict[str, str]]:
    """Return the settings whose default differs from the published value, with both values.

    The published value is the authors' for most datasets, or ImageNet's if they have one for each.
    Settings in which suite ``paper`` differs are left out: they are listed with a reason.
    """
    shots = max(suite_cards.read(SUITE).shots)
    config = registry.get(recipe.method).Config().model_dump(mode="json")
    changed = []
    for setting in recipe.settings:
        if setting.field.partition(".")[0] not in config or setting.deviation:
            continue
        default = _find(config, setting.field, shots)
        on_imagenet = value_on(setting.published, "imagenet")
        published = setting.published.get("*", on_imagenet)
        if default == published:
            continue
        ours = "not set" if default is None else _write(default)
        if default == on_imagenet:
            ours += " (ImageNet's)"
        changed.append({"setting": setting.name, "published": _write(published), "ours": ours})
    return changed


def settings_on(name: str, suite: SuiteCard, task: str, registry: MethodRegistry) -> dict[str, Any]:
    """Return a method's settings on a task, with its ``training`` and the card of the ``task``."""
    card = task_cards.read(task).model_dump(mode="json")
    card["teacher_template"] = card["teacher_template"] or card["templates"][0]
    settings = resolve_settings(registry.get(name), suite, name, task)
    if "teacher" in settings.config:  # the task's, unless the method has one
        settings.config["teacher"] = settings.config["teacher"] or card["teacher_template"]
    training = settings.training.model_dump(mode="json")
    return settings.config | {"training": training, "task": card}


def make_page() -> Page:
    """Return the data. The same recipes give the same text."""
    data = list_lines().drop(columns="differs").rename(columns=str.lower)
    return Page(files={"recipes.csv": data.to_csv(index=False, lineterminator="\n")})


@cache
def list_lines() -> pd.DataFrame:
    """Return all settings: the columns are ``method``, those of ``HEADER``, and ``differs``.

    A line is about a setting and a group of tasks with the same values. ``differs`` is True if our
    value is not the published one.
    """
    suite = suite_cards.read(SUITE)
    registry = builtin_methods()
    titles = {task: task_cards.read(task).title for task in suite.tasks}
    lines = []
    for name, recipe in read_recipes().items():
        rows = compare(recipe, suite, registry)
        for setting in recipe.settings:
            of_setting = [row for row in rows if row.setting is setting]
            for line in _group_tasks(setting, of_setting, titles):
                lines.append([name, *line])
    return pd.DataFrame(lines, columns=["method", *HEADER, "differs"])


def _group_tasks(
    setting: Setting, rows: Iterable[Row], titles: Mapping[str, str]
) -> Iterator[list[Any]]:
    """Yield the lines of a setting, one for each group of tasks with the same values.

    Args:
        setting: the setting.
        rows: its values on every task.
        titles: of the tasks.
    """
    groups = defaultdict[tuple[str, ...], list[str]](list)
    for row in rows:
        ours = _write(row.ours) if row.differs else AS_PUBLISHED
        groups[_write(row.published), ours, row.deviation].append(titles[row.task])
    largest = max(groups.values(), key=len)
    for (published, ours, reason), group in groups.items():
        tasks = ", ".join(group)
        if group is largest:
            tasks = "all" if len(groups) == 1 else "others"
        differs = ours != AS_PUBLISHED
        yield [setting.name, tasks, published, setting.source, ours, reason or NOTHING, differs]


def value_on(values: dict[str, Any], task: str, default: Any = None) -> Any:
    """Return the value for a task: its own, or that of all other tasks (``*``)."""
    for names, value in values.items():
        if task in names.replace(" ", "").split(","):
            return value
    return values.get("*", default)


def _find(config: dict[str, Any], path: str, shots: int) -> Any:
    """Return the value at a path of the settings.

    Epochs may depend on the shots: ``{'1': 50, '2': 100}`` means 100 from 2 shots on.
    """
    value: Any = config
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    if path == "recipe.epochs" and isinstance(value, dict):
        reached = [key for key in value if int(key) <= shots]
        value = value[max(reached, key=int)]
    return value


def _write(value: Any) -> str:
    """Return a value as the page shows it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_write, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
