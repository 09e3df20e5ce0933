"""``docs/recipes.md``: where suite ``paper`` differs from what is published, and why.

``docs/recipes.csv`` has every setting, also those that are as published. These were read in the
authors' scripts, and are in ``benchmark/research/recipes/<method>.yaml``; ours are asked of the
suite.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pages import DOCS, Page
from pydantic import BeforeValidator

from compatbench.data.cards import SuiteCard, suite_cards, task_cards
from compatbench.data.cards.yaml_file import CardModel, read_card
from compatbench.engine.method_settings import resolve_settings
from compatbench.method.registry import MethodRegistry, builtin_methods
from compatbench.tables.markdown import escape, render_table
from compatbench.tables.numbers import NOTHING
from compatbench.tables.table import number, plain_table

RECIPES = Path(__file__).parent / "recipes"
SUITE = "paper"
HEADER = ["Setting", "Datasets", "Published", "Source", "Ours", "Why"]
MOST = 1000  # characters of a reason that are shown

# A value for each task: ``{'*': 1.17, flowers102: 10, 'dtd,eurosat': 2}``, or one for all.
PerTask = Annotated[
    dict[str, Any],
    BeforeValidator(lambda value: value if isinstance(value, dict) else {"*": value}),
]


class Setting(CardModel):
    """One setting of a method."""

    name: str  # what it is, in words
    # Where ours is: a path in the method's settings (``recipe.lr``), in its ``training``, or in
    # the card of the ``task`` (``task.templates.0``); '' where there is no such setting.
    field: str = ""
    published: PerTask
    source: str  # a file of the authors' repository, or a section of the paper
    theirs: str = ""  # it in the authors' ``files``, as an expression of the names there
    ours: PerTask = {}  # in words, where there is no field and ours differs
    deviation: PerTask = {}  # why ours differs, where it does


class PublishedRecipe(CardModel):
    """How a method's authors run it."""

    method: str
    repository: str  # owner/name; '' where no code is public
    note: str = ""  # which of their protocols it is, if it is not the few-shot one
    files: dict[str, PerTask] = {}  # where they stand; see benchmark/authors/configurations.py
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
        """Whether ours is not the published value."""
        return self.ours != self.published


def read_recipes() -> dict[str, PublishedRecipe]:
    """The published recipes by the method's name."""
    return {path.stem: read_card(path, PublishedRecipe) for path in sorted(RECIPES.glob("*.yaml"))}


def compare(recipe: PublishedRecipe, suite: SuiteCard, registry: MethodRegistry) -> list[Row]:
    """Every setting on every task of the suite."""
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


def settings_on(name: str, suite: SuiteCard, task: str, registry: MethodRegistry) -> dict[str, Any]:
    """A method's settings on a task, with its ``training`` and the ``task``'s card."""
    card = task_cards.read(task).model_dump(mode="json")
    card["teacher_template"] = card["teacher_template"] or card["templates"][0]
    settings = resolve_settings(registry.get(name), suite, name, task)
    if "teacher" in settings.config:  # one that is left open is the task's
        settings.config["teacher"] = settings.config["teacher"] or card["teacher_template"]
    training = settings.training.model_dump(mode="json")
    return settings.config | {"training": training, "task": card}


def link_method(name: str, title: str) -> str:
    """A method's title, with a link to its page if it has results and so a page."""
    page = Path("methods", f"{name}.md")
    return f"[{title}]({page})" if (DOCS / page).is_file() else title


def make_page() -> Page:
    """The page and its data; the same recipes give the same text."""
    lines, cards = list_lines(), {n: c.card for n, c in builtin_methods().classes.items()}
    titles = {name: escape(cards[name].title) for name in read_recipes()}
    differing = lines[lines["differs"]]
    links = [number(link_method(name, titles[name])) for name in differing["method"]]
    rows = [[link, *line] for link, line in zip(links, differing[HEADER].to_numpy(), strict=True)]
    settings = plain_table(["Method", *HEADER], rows, left=range(len(HEADER) + 1))
    data = lines.drop(columns="differs").rename(columns=str.lower)
    values = {
        "same": [title for name, title in titles.items() if name not in {*differing["method"]}],
        "unread": [
            escape(card.title)
            for name, card in sorted(cards.items())
            if name not in titles and card.learns
        ],
        "settings": render_table(settings, MOST),
    }
    return Page(values, files={"recipes.csv": data.to_csv(index=False, lineterminator="\n")})


@cache
def list_lines() -> pd.DataFrame:
    """By ``method`` the lines of settings, as in ``HEADER``, and whether ours ``differs``.

    A line is of a setting and a group of tasks with the same values.
    """
    suite, registry = suite_cards.read(SUITE), builtin_methods()
    titles, lines = {task: task_cards.read(task).title for task in suite.tasks}, []
    for name, recipe in read_recipes().items():
        rows = compare(recipe, suite, registry)
        for setting in recipe.settings:
            groups = defaultdict[tuple[str, ...], list[str]](list)
            for row in rows:
                if row.setting is setting:
                    ours = _write(row.ours) if row.differs else "as published"
                    groups[_write(row.published), ours, row.deviation].append(titles[row.task])
            largest = max(groups.values(), key=len)
            for (published, ours, reason), group in groups.items():
                others = "all" if len(groups) == 1 else "others"
                line = [setting.name, others if group is largest else ", ".join(group), published]
                line += [setting.source, ours, reason or NOTHING]
                lines.append([name, *line, ours != "as published"])
    return pd.DataFrame(lines, columns=["method", *HEADER, "differs"])


def value_on(values: dict[str, Any], task: str, default: Any = None) -> Any:
    """The value for a task: its own, or that of all others."""
    for names, value in values.items():
        if task in names.replace(" ", "").split(","):
            return value
    return values.get("*", default)


def _find(config: dict[str, Any], path: str, shots: int) -> Any:
    """The value at a path; of numbers of epochs from so many shots on, the one that holds."""
    value: Any = config
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    if path == "recipe.epochs" and isinstance(value, dict):
        value = value[max((key for key in value if int(key) <= shots), key=int)]
    return value


def _write(value: Any) -> str:
    """A value as the page shows it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_write, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
