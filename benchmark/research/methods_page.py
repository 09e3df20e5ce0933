"""The capability table, ``docs/methods.md``: what methods carry, derive and need.

It is measured, by fitting and attaching them on random models, not declared.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compatbench.data.labels import NEEDS
from compatbench.extras.check.attach_checks import refusal
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, relabel
from compatbench.extras.check.models import build_clip
from compatbench.method import Backbone, FeatureSet, FewShotData, Method, Module, Teacher
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import Recipe, TrainedMethod
from compatbench.tables.markdown import escape, link_definitions, linked, table
from compatbench.tables.numbers import NOTHING

HEAD = """\
# Methods

Made by `python benchmark/pages.py methods`. The page is measured, not
written by hand: each method was fitted and attached on small random models, and its sizes were
taken on a random model with the widths and depths of ViT-B/16.

## What a module contains

A module contains what was learned and what it stores in addition; the rest is computed from the
backbone that it is attached to. If source and target differ in a size under *must be equal*, the
result is *not transferable*. C is the number of classes, N that of training images.
"""
COST = """\

## What a method needs

Trained parameters at the sizes of ViT-B/16, the published recipe (the default; a suite says
where it differs), the module at which the method is the zero-shot classifier, which
`compatbench check` tries, and what the method is given in addition to a few labelled images, class
names and templates. Methods that are given all test images are ranked separately.
"""
# What a method may ask of a backbone, in words.
ASKED = {
    "token embeddings": {"prompts", "image_prompts", "name_tokens", "embed", "embed_text"},
    "zero-shot text features": {"zero_shot", "zero_shot_ensemble", "text_features"},
    "features of descriptions": {"describe"},
    "text tower": {"encode_prompts"},
    "image tower": {"image"},
    "logit scale": {"logit_scale"},
}
SIZES = {"text tokens": "token width", "joint space": "feature size", "image tower": "image width"}
# Numbers of classes and of shots that a method is tried with, to see what its module grows with.
DRAWS = ((4, 1), (4, 2), (8, 1), (8, 2))


def make_files() -> dict[str, str]:
    """The page; the same methods give the same text."""
    registry = builtin_methods()
    carried, cost, papers = [], [], []
    for method in map(registry.get, registry.names()):
        card, tested = method.card, MethodUnderTest(method)
        modules = [_start(tested, classes, shots) for classes, shots in DRAWS]
        title, places = linked(card.title, card.paper), card.places if card.depth != "none" else ()
        columns = (
            places,
            _shapes([module.trained for module in modules]),
            _shapes([module.stored for module in modules]),
            _derived(tested),
            _needs(tested),
        )
        depth = card.depth if places else NOTHING
        carried.append([title, f"`{card.name}`", depth, *map(_list, columns)])
        parameters = write_size([module.parameters for module in modules])
        zero_shot_at = _list(f"{name} = {value}" for name, value in card.zero_shot_at.items())
        given = _list(words for need, words in NEEDS.items() if need in card.needs)
        cost.append([title, escape(card.summary), parameters, _recipe(method), zero_shot_at, given])
        papers.append(card.paper)
    header = ["Method", "Name", "Depth", "Place", "Learned", "Kept", "Derived", "Must be equal"]
    lines = [HEAD, *table(header, carried, left=range(8)), COST]
    header = ["Method", "Idea", "Parameters", "Recipe", "Zero-shot at", "Also given"]
    lines += table(header, cost, left=(0, 1, 3, 4, 5))
    return {"methods.md": "\n".join([*lines, "", *link_definitions(papers)]) + "\n"}


def _list(items: Iterable[str]) -> str:
    return "; ".join(map(escape, items)) or NOTHING


def _recipe(method: type[Method]) -> str:
    if not method.card.learns:
        return NOTHING
    recipe = getattr(method.Config(), "recipe", None)
    if not isinstance(recipe, Recipe):
        return "closed form, or a loop of its own"
    epochs = recipe.epochs
    if not isinstance(epochs, int):
        epochs = ", ".join(f"{count} (from {shots} shots on)" for shots, count in epochs.items())
    name = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[recipe.optimizer]
    return f"{name} {recipe.lr:g}, batch {recipe.batch_size}, epochs {epochs}, {recipe.schedule}"


@cache
def _b16_sized() -> Backbone:
    """A CLIP with the widths and depths of ViT-B/16."""
    widths = dict(token_width=512, embed_dim=512, image_width=768, head_width=64)
    return build_clip("b16-sized", seed=7, **widths)


def _start(tested: MethodUnderTest, classes: int, shots: int) -> Module:
    """A module at the sizes of ViT-B/16: of a trained method before its first step."""
    backbone, generator = _b16_sized(), torch.Generator().manual_seed(1)
    labels = relabel((*LABELS.names, "cat", "blue car", "boat")[:classes])
    targets = torch.arange(classes).repeat_interleave(shots)
    views = torch.randn(2, len(targets), backbone.embed_dim, generator=generator)
    shown = FeatureSet(views[0], views, targets)
    data, instance = FewShotData(labels, shots, shown, shown, shown), tested.build()
    data = replace(data, teacher=Teacher(backbone, data))
    start = instance.init if isinstance(instance, TrainedMethod) else instance.fit
    return start(backbone, data, generator)


def write_size(sizes: Sequence[int]) -> str:
    """Sizes at the ``DRAWS`` as a sum of parts that grow with C, with N, or with both."""
    grid = np.array([[1, c, c * shots, c * c * shots] for c, shots in DRAWS])
    factors = np.rint(np.linalg.solve(grid, sizes)).astype(int)
    assert (grid @ factors == sizes).all(), "no sum of parts that grow with C, with N, or with both"
    parts = []
    for count, unit in zip(factors, ("", "C", "N", "C · N"), strict=True):
        if count:
            parts.append(f"{count:,} · {unit}".removesuffix(" · ").removeprefix("1 · "))
    return " + ".join(parts) or "0"


def _shapes(groups: Sequence[dict[str, Tensor]]) -> list[str]:
    """Names and shapes; tensors whose names differ in numbers alone are given once."""
    counts = Counter[str]()
    for name in groups[0]:
        sizes = []
        for size, more_images, more_classes, _ in zip(
            *(g[name].shape for g in groups), strict=True
        ):
            grows = "N" if more_images != size else "C" if more_classes != size else f"{size:,}"
            sizes.append(grows)
        counts[f"{re.sub('[0-9]+', '*', name)}: {' × '.join(sizes) or '1'}"] += 1
    return [f"{text} ({times} times)" if times > 1 else text for text, times in counts.items()]


def _derived(tested: MethodUnderTest) -> list[str]:
    """What is asked of a backbone while a module is attached and images are classified."""
    inputs, module = tested.inputs(tested.source), tested.module
    asked: set[str] = set()

    class Watched(Backbone):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattribute__(name)

    backbone = copy.copy(tested.source)
    backbone.__class__ = Watched
    with torch.no_grad():
        tested.attach(backbone, module)(inputs)
    # What the backbone asks of itself, to answer, is not asked by the method.
    features = ASKED["zero-shot text features"] | ASKED["features of descriptions"]
    if asked & features and not asked & {"prompts", "image_prompts"}:
        asked -= {"embed", "encode_prompts"}
    return [what for what, names in ASKED.items() if names & asked]


def _needs(tested: MethodUnderTest) -> list[str]:
    """What must be equal on source and target, for otherwise the module is refused."""
    others = tested.models.others
    needs = [word for what, word in SIZES.items() if refusal(tested, what, others[what])]
    fewer = relabel(LABELS.names[:3])
    return [*needs, "classes"] if refusal(tested, "fewer classes", tested.source, fewer) else needs
