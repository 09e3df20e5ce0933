"""Make the table of ``docs/methods.md``, and the facts on the page of each method.

What a method stores, derives and needs is measured, by fitting and attaching it on random models.
``compatbench report`` writes the pages of methods from these facts and from the results.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pages import Page
from recipes_page import list_defaults, list_lines, read_recipes
from torch import Tensor

from compatbench.data.labels import NEEDS
from compatbench.extras.check.attach_rules import refusal
from compatbench.extras.check.method_under_test import LABELS, MethodUnderTest, relabel
from compatbench.extras.check.models import build_clip
from compatbench.method import Backbone, FeatureSet, FewShotData, Method, Module, Teacher
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import Recipe, TrainedMethod
from compatbench.tables.markdown import escape
from compatbench.tables.numbers import NOTHING
from compatbench.tables.table import number, plain_table

FACTS = "../benchmark/compatbench/tables/pages/methods.json"
# What a method may derive from a backbone, with the attributes that give it.
SOURCES = {
    "token embeddings": {"prompts", "image_prompts", "name_tokens", "embed", "embed_text"},
    "zero-shot text features": {"zero_shot", "zero_shot_ensemble", "text_features"},
    "features of descriptions": {"describe"},
    "text tower": {"encode_prompts"},
    "image tower": {"image"},
    "logit scale": {"logit_scale"},
}
SIZES = {"text tokens": "token width", "joint space": "feature size", "image tower": "image width"}
# The solvers of methods without a ``Recipe``; the others are solved in closed form.
SOLVERS = {
    "cross_modal": "AdamW, with rate, weight decay and batch size chosen on the validation images",
    "linear_probe": "L-BFGS",
    "lp_plus_plus": "gradient descent with step sizes computed from the features",
}
ALL_IMAGES = 2**16  # a batch that no few-shot draw fills
MOST_SHAPES = 7  # tensors that are listed one by one
GROUP = ["method", "Setting"]
B16_WIDTHS = dict(token_width=512, image_width=768, head_width=64)
# Classes and shots that a method is tried with, to see what its module grows with. The first draw
# is compared with one of more images, one of more classes, and one of both.
DRAWS = ((4, 1), (4, 2), (8, 1), (8, 2))


def make_page() -> Page:
    """Return the table of all methods, and the facts for their pages."""
    registry = builtin_methods()
    recipes = read_recipes()
    lines = list_lines()
    # None: no recipe was read. An empty list: all settings are as published.
    deviations: dict[str, list[dict[str, str]]] = {name: [] for name in recipes}
    for (name, setting), of_setting in lines[lines["differs"]].groupby(GROUP, sort=False):
        merged = {"setting": str(setting), **merge_tasks(of_setting)}
        deviations[str(name)].append(merged)
    facts = {}
    rows = []
    for name in registry.names():
        method = registry.get(name)
        about = describe_method(method)
        about["deviations"] = deviations.get(name)
        about["defaults"] = list_defaults(recipes[name], registry) if name in recipes else []
        about["repository"] = recipes[name].repository if name in recipes else ""
        facts[name] = about
        places = ", ".join(about["places"])
        cells = [
            places,
            method.card.summary,
            about["parameters"],
            "; ".join(about["must_be_equal"]),
            "; ".join(about["given"]),
        ]
        title = number(f"[{escape(about['title'])}](methods/{name}.md)")
        rows.append([title, *(cell or None for cell in cells)])
    header = ["Method", "Place", "Idea", "Parameters", "Must be equal", "Also needs"]
    values = {"methods": plain_table(header, rows, (0, 1, 2, 4, 5)), "count": len(facts)}
    text = json.dumps(facts, ensure_ascii=False, indent=1)
    return Page(values, files={FACTS: text + "\n"})


def merge_tasks(lines: pd.DataFrame) -> dict[str, str]:
    """Return a setting in which we differ on one line: values that depend on tasks name them."""
    shown = {}
    for column in ("Published", "Ours", "Why"):
        tasks: dict[str, list[str]] = {}
        for value, group in zip(lines[column], lines["Datasets"], strict=True):
            tasks.setdefault(value, []).append(group)
        parts = []
        for value, groups in tasks.items():
            part = value if len(tasks) == 1 else f"{value} ({', '.join(groups)})"
            parts.append(part)
        shown[column.lower()] = "; ".join(parts)
    return shown


def describe_method(method: type[Method]) -> dict[str, Any]:
    """Return the facts for the page of a method, from its file and from measurements."""
    card = method.card
    tested = MethodUnderTest(method)
    modules = [_start(tested, classes, shots) for classes, shots in DRAWS]
    headline, idea = read_idea(method)
    return {
        "title": card.title,
        "paper": card.paper,
        "file": Path(inspect.getfile(method)).name,
        "headline": headline,
        "idea": idea,
        "details": read_formula(method),
        "depth": card.depth,
        "places": [*card.places] if card.depth != "none" else [],
        "learned": _shapes([module.trained for module in modules]),
        "stored": _shapes([module.stored for module in modules]),
        "derived": _derived(tested),
        "must_be_equal": _needs(tested),
        "parameters": write_size([module.parameters for module in modules]),
        "recipe": write_recipe(method),
        "given": [words for need, words in NEEDS.items() if need in card.needs],
        "learns": card.learns,
    }


def read_idea(method: type[Method]) -> tuple[str, str]:
    """Return the first line of a method's file without the title, and the idea that follows."""
    about = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    first, _, rest = about.partition("\n\n")
    headline = first.partition(": ")[2]
    return headline[:1].upper() + headline[1:], " ".join(rest.split())


def read_formula(method: type[Method]) -> str:
    """Return a method's docstring as Markdown, up to ``In detail:``; the file has the rest."""
    docstring = inspect.getdoc(method) or ""
    return to_markdown(docstring.partition("\n\nIn detail: ")[0])


def to_markdown(docstring: str) -> str:
    """Return a docstring as Markdown: lists and formulas stay, and other text is no markup."""
    blocks = []
    for block in docstring.split("\n\n"):
        if block.startswith("    "):
            blocks.append(f"```text\n{inspect.cleandoc(block)}\n```")
        elif block.startswith("* "):
            items = re.split(r"\n\* ", block.removeprefix("* "))
            blocks.append("\n".join(f"* {_escape_words(item)}" for item in items))
        else:
            blocks.append(_escape_words(block))
    return "\n\n".join(blocks)


def _escape_words(text: str) -> str:
    """Return a paragraph on one line, with ``names`` as code and *titles* of papers in italics."""
    # Every second piece is one that the pattern matches.
    pieces = re.split(r"(``.+?``|(?<![\w*])\*[A-Z][^*]*\*)", " ".join(text.split()))
    for i, piece in enumerate(pieces):
        if piece.startswith("``"):
            pieces[i] = f"`{piece[2:-2]}`"
        elif i % 2:
            pieces[i] = f"*{escape(piece[1:-1])}*"
        elif piece.strip():
            left = piece[: -len(piece.lstrip())]
            right = piece[len(piece.rstrip()) :]
            # Escape it after a word: in the middle of a paragraph, nothing begins a list.
            shown = escape(f"x {piece.strip()}", 5000).removeprefix("x ")
            pieces[i] = f"{left}{shown}{right}"
    return "".join(pieces)


def write_recipe(method: type[Method]) -> str:
    """Return the optimiser and its settings in words."""
    if not method.card.learns:
        return NOTHING
    config = method.Config()
    recipe = getattr(config, "recipe", None)
    if not isinstance(recipe, Recipe):
        return SOLVERS.get(method.card.name, "closed form")
    settings = config.model_dump()
    if "steps_per_shot" in settings:
        length = f"{settings['steps_per_shot']} steps per shot"
    elif "steps" in settings:
        length = f"{settings['steps']} steps"
    else:
        length = _write_epochs(recipe.epochs)
    name = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}[recipe.optimizer]
    schedule = {"constant": "constant rate", "cosine-epoch": "cosine by epoch"}
    schedule["cosine-step"] = "cosine by step"
    shown = schedule[recipe.schedule]
    batch = f"batches of {recipe.batch_size}"
    if recipe.batch_size >= ALL_IMAGES:
        batch = "all images in one batch"
    return f"{name} at {recipe.lr:g}, {batch}, {length}, {shown}"


def _write_epochs(epochs: int | Mapping[int, int]) -> str:
    if isinstance(epochs, int):
        return f"{epochs} epochs"
    lengths = "/".join(map(str, epochs.values()))
    starts = "/".join(map(str, epochs))
    return f"{lengths} epochs from {starts} shots on"


@cache
def _b16_sized() -> Backbone:
    """Return a CLIP with the widths and depths of ViT-B/16."""
    return build_clip("b16-sized", seed=7, embed_dim=512, **B16_WIDTHS)


@cache
def _teacher() -> Backbone:
    """Return a CLIP whose features have the size of those of ViT-L/14."""
    return build_clip("teacher", seed=8, embed_dim=768, **B16_WIDTHS)


def _start(tested: MethodUnderTest, classes: int, shots: int) -> Module:
    """Return a module at the sizes of ViT-B/16; of a trained method before its first step."""
    backbone = _b16_sized()
    generator = torch.Generator().manual_seed(1)
    labels = relabel((*LABELS.names, "cat", "blue car", "boat")[:classes])
    targets = torch.arange(classes).repeat_interleave(shots)
    views = torch.randn(1, len(targets), backbone.embed_dim, generator=generator)
    features = FeatureSet(views[0], views, targets)
    data = FewShotData(labels, shots, features, features, features)
    data = replace(data, teacher=Teacher(_teacher(), data))
    instance = tested.build()
    if isinstance(instance, TrainedMethod):
        return instance.init(backbone, data, generator)
    return instance.fit(backbone, data, generator)


def write_size(sizes: Sequence[int]) -> str:
    """Return sizes at the ``DRAWS`` as a sum of parts that grow with C, with N, or with both.

    Raises:
        ValueError: they are no such sum, as those of a matrix of C × C are not.
    """
    grid = np.array([[1, c, c * shots, c * c * shots] for c, shots in DRAWS])
    factors = np.rint(np.linalg.solve(grid, sizes)).astype(int)
    if (factors < 0).any() or (grid @ factors != sizes).any():
        raise ValueError(f"{sizes}: no sum of parts that grow with C, with N, or with both")
    parts = []
    for factor, unit in zip(factors, ("", "C", "N", "C · N"), strict=True):
        if factor:
            parts.append(f"{factor:,} · {unit}".removesuffix(" · ").removeprefix("1 · "))
    return " + ".join(parts) or "0"


def _shapes(groups: Sequence[dict[str, Tensor]]) -> list[str]:
    """Return names and shapes; tensors whose names differ only in numbers are listed once.

    Args:
        groups: the tensors of a module at each of the ``DRAWS``, by name.
    """
    counts = Counter[str]()
    for name in groups[0]:
        shapes = [tensors[name].shape for tensors in groups]
        dimensions = [write_size(sizes) for sizes in zip(*shapes, strict=True)]
        pattern = re.sub("[0-9]+", "*", name)
        counts[f"{pattern}: {' × '.join(dimensions) or '1'}"] += 1
    if counts.total() > MOST_SHAPES:
        return [f"{counts.total()} tensors"]
    return [f"{text} ({times} times)" if times > 1 else text for text, times in counts.items()]


def _derived(tested: MethodUnderTest) -> list[str]:
    """Return what a method derives from a backbone to attach a module and classify images."""
    inputs = tested.inputs(tested.source)
    module = tested.module
    used: set[str] = set()

    class Watched(Backbone):
        """A backbone that notes which of its attributes are used."""

        def __getattribute__(self, name: str) -> Any:
            used.add(name)
            return super().__getattribute__(name)

    backbone = copy.copy(tested.source)
    backbone.__class__ = Watched
    with torch.no_grad():
        tested.attach(backbone, module)(inputs)
    # To answer, the backbone uses attributes of its own. The method has not used these.
    features = SOURCES["zero-shot text features"] | SOURCES["features of descriptions"]
    if used & features and not used & {"prompts", "image_prompts"}:
        used -= {"embed", "encode_prompts"}
    return [source for source, names in SOURCES.items() if names & used]


def _needs(tested: MethodUnderTest) -> list[str]:
    """Return what must be equal on source and target. Otherwise the module is refused."""
    needs = []
    for what, size in SIZES.items():
        if refusal(tested, what, tested.models.others[what]):
            needs.append(size)
    fewer = relabel(LABELS.names[:3])
    if refusal(tested, "fewer classes", tested.source, fewer):
        needs.append("classes")
    return needs
