"""The settings and the training that a suite gives a method on a task, checked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from compatbench.data.cards import (
    SuiteCard,
    TrainingCard,
    select_names,
    task_cards,
    whole_name,
)
from compatbench.engine.flat_settings import flat_settings
from compatbench.errors import CompatbenchError
from compatbench.method import Method, read_settings
from compatbench.method.trained import Recipe

MAX_CONFIG_NAME = 100  # characters


class Settings(NamedTuple):
    """A method's settings in a suite for a task, all as JSON values, and its training."""

    config: dict[str, Any]
    training: TrainingCard


def resolve_settings(
    cls: type[Method], suite: SuiteCard, name: str | None = None, task: str | None = None
) -> Settings:
    """Return a method's settings in a suite: its recipe, the suite's changes, the cap on steps.

    A config that the suite names begins with the suite's changes of the method itself, or of the
    config that it extends. Changes for a task come after those for all tasks. Without a task, only
    the latter count.
    """
    name = name or cls.card.name
    training = suite.training.model_dump()
    values: dict[str, Any] = {}
    recipes = {name: value for name, value in cls.Config() if isinstance(value, Recipe)}
    lineage = dict.fromkeys((cls.card.name, *suite.lineage(name)))
    for changes in _list_changes(suite, lineage, task):
        training |= changes.pop("training", {})
        for field in recipes.keys() & changes.keys():
            if isinstance(changes[field], dict):
                # Of a recipe, only the parts that are named change.
                before = values.get(field) or recipes[field].model_dump(mode="json")
                changes[field] = before | changes[field]
        values |= changes
    if "max_steps" in cls.Config.model_fields and training["max_steps"] is not None:
        values.setdefault("max_steps", training["max_steps"])
    place = f"method '{name}' in suite '{suite.name}'"
    if task:
        place += f", task '{task}'"
    config = read_settings(cls.Config, values, place).model_dump(mode="json")
    return Settings(config, read_settings(TrainingCard, training, f"the training of {place}"))


def name_configs(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return methods or configs with further settings, as named configs of a suite's card."""
    reserved = {"method", "tasks"} & config.keys()
    if reserved:
        raise CompatbenchError(f"setting '{min(reserved)}': there is no such setting")
    # Each is a valid ``ConfigName``, for files of results and selections.
    suffixes = []
    for setting, value in flat_settings(config):
        suffixes.append(re.sub(r"[^\w.-]+", "-", f"{setting}-{value}"))
    configs = {}
    for name in names:
        config_name = "+".join([name, *suffixes])[:MAX_CONFIG_NAME]
        configs[config_name] = {"method": name, **config}
    return configs


def _list_changes(
    suite: SuiteCard, names: Iterable[str], task: str | None
) -> Iterator[dict[str, Any]]:
    """Yield a suite's changes of a method or config, each to be applied after those before it.

    Changes for a task also hold for halves of its classes.
    """
    whole = None if task is None else whole_name(task)
    for name in names:
        values = dict(suite.methods.get(name, {}))
        values.pop("method", None)
        by_task = values.pop("tasks", {})
        yield values
        for selection, changes in by_task.items():
            kind = f"task (methods.{name}.tasks of suite '{suite.name}')"
            if whole in select_names(selection, task_cards.names(), kind):
                yield dict(changes)
