"""``compatbench list methods --markdown``: the capability table, ``docs/methods.md``."""

from __future__ import annotations

from collections.abc import Iterable

from compatbench.conformance.capabilities import Capability, examine_method
from compatbench.method import Method
from compatbench.method.optim import Recipe
from compatbench.method.registry import MethodRegistry
from compatbench.pages.markdown import NOTHING, escape, link_definitions, linked, table

HEAD = """\
# Methods

Made by `compatbench list methods --markdown > docs/methods.md`. What is carried, derived and
needed was measured: each method was fitted and attached on small random models, and its
sizes were taken on a random model with the widths and depths of ViT-B/16.
"""

CARRIED = """\
## What travels

A module holds what was learned and what it keeps beside; the rest is asked of the backbone at
hand. Where source and target differ in a size under *must be equal*, the result is *not
transferable*. C is the number of classes, N that of training images.
"""

COST = """\
## What it takes

Trained parameters at the sizes of ViT-B/16, the published recipe (the default; a suite says
where it differs), and the module at which the method is the zero-shot classifier, which
`compatbench check` tries.
"""


def render_methods(registry: MethodRegistry, names: Iterable[str]) -> str:
    """The page; the same methods give the same text."""
    methods = [registry.get(name) for name in names]
    found = [examine_method(method) for method in methods]
    carried = [_carried(m, c) for m, c in zip(methods, found, strict=True)]
    cost = [_cost(m, c) for m, c in zip(methods, found, strict=True)]
    lines = [HEAD, CARRIED]
    lines += table(
        ["Method", "Name", "Depth", "Place", "Learned", "Kept", "Derived", "Must be equal"],
        carried,
        left=range(8),
    )
    lines += ["", COST]
    lines += table(
        ["Method", "Idea", "Parameters", "Recipe", "Zero-shot at"], cost, left=(0, 1, 3, 4)
    )
    lines += ["", *link_definitions([method.card.paper for method in methods])]
    return "\n".join(lines) + "\n"


def _carried(method: type[Method], found: Capability) -> list[str]:
    card = method.card
    return [
        linked(card.title, card.paper),
        f"`{card.name}`",
        card.depth if card.depth != "none" else NOTHING,
        _list(card.places if card.depth != "none" else ()),
        _list(found.trained),
        _list(found.stored),
        _list(found.derived),
        _list(found.needs),
    ]


def _cost(method: type[Method], found: Capability) -> list[str]:
    card = method.card
    at = [f"{name} = {value}" for name, value in card.zero_shot_at.items()]
    return [
        linked(card.title, card.paper),
        escape(card.summary),
        str(found.parameters),
        _recipe(method),
        _list(at),
    ]


def _recipe(method: type[Method]) -> str:
    if not method.card.learns:
        return NOTHING
    recipe = getattr(method.Config(), "recipe", None)
    if not isinstance(recipe, Recipe):
        return "closed form, or a loop of its own"
    epochs = recipe.epochs
    counts = (
        str(epochs)
        if isinstance(epochs, int)
        else ", ".join(f"{count} (from {shots} shots on)" for shots, count in epochs.items())
    )
    name = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[recipe.optimizer]
    return f"{name} {recipe.lr:g}, batch {recipe.batch_size}, epochs {counts}, {recipe.schedule}"


def _list(items: Iterable[str]) -> str:
    return "; ".join(escape(item) for item in items) or NOTHING
