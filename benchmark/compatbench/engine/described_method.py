"""What pages and result files say about a method, as plain data.

A run plans in another process than it scores in, and only the first one imports methods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compatbench.data.cards import SuiteCard, suite_tasks
from compatbench.data.labels import Need
from compatbench.engine.flat_settings import flat_settings
from compatbench.engine.method_settings import Settings, resolve_settings
from compatbench.method import Method
from compatbench.method.identity import method_identity


@dataclass(frozen=True)
class DescribedMethod:
    """A method, or a named config of one, with a suite's settings."""

    name: str  # in the suite and in results
    identity: str  # of the method's code, as keys contain it
    title: str
    paper: str
    depth: Literal["none", "shallow", "deep"]
    inserts: tuple[str, ...]
    learns: bool
    needs: tuple[Need, ...]
    config: Mapping[str, Any]  # the resolved settings, as JSON values
    differs: Mapping[str, tuple[Any, Any]]  # what the suite changed: (published recipe, suite)


def describe_method(suite: SuiteCard, method: type[Method], name: str) -> DescribedMethod:
    """Return the description of a method, or of a config of one."""
    general = resolve_settings(method, suite, name)
    recipe = Settings(method.Config().model_dump(mode="json"), suite.training)
    differs = _differences(recipe, general)
    if suite.training.precision != "fp32":
        differs["precision"] = ("fp32", suite.training.precision)
    names = {method.card.name, *suite.lineage(name)}
    # Most suites set nothing by task.
    if any("tasks" in suite.methods.get(each, {}) for each in names):
        for task in suite_tasks(suite):
            changed = _differences(general, resolve_settings(method, suite, name, task))
            for setting, values in changed.items():
                differs[f"{task}: {setting}"] = values
    card = method.card
    title = card.title if name == card.name else name
    if name.startswith(f"{card.name}+"):
        # Such as coop+context-4.
        settings = name.removeprefix(f"{card.name}+").replace("+", " ")
        title = f"{card.title}, {settings}"
    return DescribedMethod(
        name=name,
        identity=method_identity(method),
        title=title,
        paper=card.paper,
        depth=card.depth,
        inserts=card.places,
        learns=card.learns,
        needs=tuple(sorted(card.needs)),
        config=general.config,
        differs=differs,
    )


def _differences(before: Settings, after: Settings) -> dict[str, tuple[Any, Any]]:
    """Return the settings that were changed, by dotted name, without the cap on steps."""
    old = _flatten(before)
    new = _flatten(after)
    changed = {}
    for name, value in new.items():
        if old.get(name) != value:
            changed[name] = (old.get(name), value)
    return changed


def _flatten(settings: Settings) -> dict[str, Any]:
    training = settings.training.model_dump(mode="json", exclude={"max_steps", "precision"})
    values = dict(flat_settings({**settings.config, "training": training}))
    values.pop("max_steps", None)
    return values
