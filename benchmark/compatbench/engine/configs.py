"""What a method's name means in a suite: the method, and its settings there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compatbench.data.cards import SuiteCard, select_names
from compatbench.engine.aligned_cells import expand_aligned
from compatbench.errors import CompatbenchError
from compatbench.method import Method
from compatbench.method.registry import MethodRegistry


def select_methods(suite: SuiteCard, registry: MethodRegistry, wanted: str) -> list[str]:
    """The methods and named configs that a selection means in a suite.

    ``all`` means what the suite compares; any other method may be asked for by name, and
    what acts on features with ``+aligned`` behind it. The suite's plug-ins are loaded first.

    Raises:
        CompatbenchError: an unknown name, a method file that cannot be loaded, or a config
            of a method that is not known.
    """
    for plugin in suite.plugins:
        registry.add_file(plugin)
    for name in suite.configs:
        if name in registry.classes:
            raise CompatbenchError(
                f"suite '{suite.name}': config '{name}' bears the name of a method; rename it"
            )
        registry.get(suite.base_method(name))
    compared = select_names(suite.compare, [*registry.names(), *suite.configs], "method")
    parts = [part.strip() for part in wanted.split(",") if part.strip()]
    if all(part.startswith("!") for part in parts):
        parts = ["all", *parts]
    parts = [name for part in parts for name in (compared if part == "all" else [part])]
    parts = [
        name
        for part in parts
        for name in (registry.add_file(Path(part)) if part.endswith(".py") else [part])
    ]
    parts, aligned = expand_aligned(parts, suite, registry)
    return registry.select(",".join(parts), [*suite.configs, *aligned])


def resolve_config(cls: type[Method], suite: SuiteCard, name: str | None = None) -> dict[str, Any]:
    """A method's settings in a suite: its recipe, what the suite changes, and the cap on steps.

    Args:
        name: a config of the method that the suite names; it begins with what the suite
            changes of the method itself.

    Raises:
        CompatbenchError: the suite sets something the method does not know.
    """
    values: dict[str, Any] = {}
    for key in dict.fromkeys((cls.card.name, name or cls.card.name)):
        values = _merge(cls, values, suite.methods.get(key, {}))
    if "max_steps" in cls.Config.model_fields and suite.training.max_steps is not None:
        values.setdefault("max_steps", suite.training.max_steps)
    try:
        return cls.Config(**values).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CompatbenchError(
            f"suite '{suite.name}': setting '{field}' of method '{name or cls.card.name}': "
            f"{first['msg']}"
        ) from None


def _merge(cls: type[Method], values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Changed settings over those before; of a recipe, only the parts that are named change."""
    changes = {key: value for key, value in changes.items() if key != "method"}
    recipe = changes.get("recipe")
    if isinstance(recipe, dict) and "recipe" in cls.Config.model_fields:
        before = values.get("recipe") or cls.Config.model_fields["recipe"].default.model_dump()
        changes["recipe"] = before | recipe
    return values | changes
