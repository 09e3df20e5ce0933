"""The table ``docs/methods.md``, and what the page of each method says besides its results.

What methods carry, derive and need is measured, by fitting and attaching them on random models, not
declared. ``compatbench report`` writes the pages from it and from the results.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import Page
from recipes_page import HEADER, list_lines, read_recipes
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


def make_page() -> Page:
    """The table, and what the page of each method says besides its results."""
    registry = builtin_methods()
    recipes, lines = read_recipes(), list_lines()
    differing = lines[lines["differs"]].groupby("method")[HEADER]
    deviations = {name: [] for name in recipes}
    deviations |= {name: of.to_numpy().tolist() for name, of in differing}
    facts, rows = {}, []
    for method in map(registry.get, registry.names()):
        name = method.card.name
        facts[name] = made = describe_method(method) | {
            "deviations": deviations.get(name),
            "repository": recipes[name].repository if name in recipes else "",
        }
        places = ", ".join(made["places"])
        cells = (made["parameters"], "; ".join(made["must_be_equal"]), "; ".join(made["given"]))
        shown = (places and made["depth"], places, method.card.summary, *cells)
        title = number(f"[{escape(made['title'])}](methods/{name}.md)")
        rows.append([title, *(cell or None for cell in shown)])
    header = ["Method", "Depth", "Place", "Idea", "Parameters", "Must be equal", "Also given"]
    values = {"methods": plain_table(header, rows, (0, 1, 2, 3, 5, 6)), "count": len(facts)}
    text = json.dumps(facts, ensure_ascii=False, indent=1)
    return Page(values, files={FACTS: text + "\n"})


def describe_method(method: type[Method]) -> dict[str, Any]:
    """What a page says of a method: the words of its file, and what was measured."""
    card, tested = method.card, MethodUnderTest(method)
    modules = [_start(tested, classes, shots) for classes, shots in DRAWS]
    headline, idea = read_idea(method)
    return {
        "title": card.title,
        "paper": card.paper,
        "file": Path(inspect.getfile(method)).name,
        "headline": headline,
        "idea": idea,
        "details": to_markdown(inspect.getdoc(method) or ""),
        "depth": card.depth,
        "places": [*card.places] if card.depth != "none" else [],
        "learned": _shapes([module.trained for module in modules]),
        "stored": _shapes([module.stored for module in modules]),
        "derived": _derived(tested),
        "must_be_equal": _needs(tested),
        "parameters": write_size([module.parameters for module in modules]),
        "recipe": _recipe(method),
        "zero_shot_at": [f"{name} = {value}" for name, value in card.zero_shot_at.items()],
        "given": [words for need, words in NEEDS.items() if need in card.needs],
        "learns": card.learns,
    }


def read_idea(method: type[Method]) -> tuple[str, str]:
    """The sentence in the first line of a method's file, without the title, and what follows."""
    about = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    first, _, rest = about.partition("\n\n")
    headline = first.partition(": ")[2]
    return headline[:1].upper() + headline[1:], " ".join(rest.split())


def to_markdown(docstring: str) -> str:
    """A docstring as Markdown: its lists and formulas stay; no other text is markup."""
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
    """A paragraph on one line; ``names`` are code, and the *title* of a paper is in italics."""
    pieces = re.split(r"(``.+?``|(?<![\w*])\*[A-Z][^*]*\*)", " ".join(text.split()))
    for i, piece in enumerate(pieces):
        if piece.startswith("``"):
            pieces[i] = f"`{piece[2:-2]}`"
        elif i % 2:
            pieces[i] = f"*{escape(piece[1:-1])}*"
        elif piece.strip():
            left, right = piece[: -len(piece.lstrip())], piece[len(piece.rstrip()) :]
            # Behind a word, for nothing in the middle of a paragraph begins a list.
            shown = escape(f"x {piece.strip()}", 5000).removeprefix("x ")
            pieces[i] = f"{left}{shown}{right}"
    return "".join(pieces)


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
