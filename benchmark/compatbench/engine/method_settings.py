"""What a suite sets of a method for a task: its settings and its training, checked."""

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


class Settings(NamedTuple):
    """What a suite sets of a method for a task: every setting as JSON, and the training."""

    config: dict[str, Any]
    training: TrainingCard


def resolve_settings(
    cls: type[Method], suite: SuiteCard, name: str | None = None, task: str | None = None
) -> Settings:
    """A method's settings in a suite: its recipe, what the suite changes, and the cap on steps.

    A config that the suite names begins with what the suite changes of the method itself, or of
    the config that it is one of. What is said of the task comes after what is said of all;
    without a task, only that.
    """
    name = name or cls.card.name
    training, values = suite.training.model_dump(), {}
    for changes in _changes(suite, dict.fromkeys((cls.card.name, *suite.lineage(name))), task):
        training |= changes.pop("training", {})
        recipe = changes.get("recipe")
        if isinstance(recipe, dict) and "recipe" in cls.Config.model_fields:
            # Of a recipe, only the parts that are named change.
            before = values.get("recipe") or cls.Config().model_dump(mode="json")["recipe"]
            changes["recipe"] = before | recipe
        values |= changes
    if "max_steps" in cls.Config.model_fields and training["max_steps"] is not None:
        values.setdefault("max_steps", training["max_steps"])
    whose = f"method '{name}' in suite '{suite.name}'" + (f", task '{task}'" if task else "")
    config = read_settings(cls.Config, values, whose).model_dump(mode="json")
    return Settings(config, read_settings(TrainingCard, training, f"the training of {whose}"))


def name_configs(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Methods or configs with further settings, as ``methods`` of a suite names configs."""
    if wrong := {"method", "tasks"} & config.keys():
        raise CompatbenchError(f"setting '{min(wrong)}': there is no such setting")
    # Each a ``ConfigName``, for files of results and selections.
    shown = [re.sub(r"[^\w.-]+", "-", f"{n}-{value}") for n, value in flat_settings(config)]
    return {"+".join([name, *shown])[:100]: {"method": name, **config} for name in names}


def _changes(suite: SuiteCard, names: Iterable[str], task: str | None) -> Iterator[dict[str, Any]]:
    """What a suite says of a method or config, in the order in which it holds.

    What it says of a task holds for halves of its classes.
    """
    whole = None if task is None else whole_name(task)
    for name in names:
        values = dict(suite.methods.get(name, {}))
        values.pop("method", None)
        by_task = values.pop("tasks", {})
        yield values
        for wanted, changes in by_task.items():
            kind = f"task (methods.{name}.tasks of suite '{suite.name}')"
            if whole in select_names(wanted, task_cards.names(), kind):
                yield dict(changes)
