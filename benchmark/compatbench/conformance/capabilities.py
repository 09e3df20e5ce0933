"""What a method carries, derives and needs: measured by fitting and attaching it, not declared."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compatbench.conformance.method_under_test import (
    LABELS,
    MethodUnderTest,
    relabel,
    unseen_images,
)
from compatbench.conformance.models import build_clip
from compatbench.errors import NotTransferable
from compatbench.method import Backbone, FeatureSet, FewShotData, Method, Module
from compatbench.method.trained import TrainedMethod

# What a method may ask of a backbone, in words.
ASKED = {
    "token embeddings": {"prompts", "image_prompts", "name_tokens", "embed", "embed_text"},
    "zero-shot text features": {"zero_shot", "zero_shot_ensemble", "text_features"},
    "text tower": {"encode_prompts"},
    "image tower": {"image"},
    "logit scale": {"logit_scale"},
}
SIZES = {
    "text tokens": "token width",
    "joint space": "feature size",
    "image tower": "image width",
}
# Numbers of classes and of shots that a method is tried with, to see what its module grows with.
DRAWS = ((4, 1), (4, 2), (8, 1), (8, 2))


@dataclass(frozen=True)
class Capability:
    """What the capability table says of a method.

    C is the number of classes, N that of training images.

    Attributes:
        trained, stored: the module's tensors with their shapes at the sizes of ViT-B/16.
        derived: what attach asks of the backbone.
        needs: what must be equal on source and target.
        parameters: numbers that a fit determines at the sizes of ViT-B/16: ``2,048 + 513 · C``.
    """

    trained: tuple[str, ...]
    stored: tuple[str, ...]
    derived: tuple[str, ...]
    needs: tuple[str, ...]
    parameters: str


def examine_method(method: type[Method]) -> Capability:
    """Fits and attaches a method on random models, and looks at what it does."""
    modules = [_start(method, classes, shots) for classes, shots in DRAWS]
    return Capability(
        trained=_shapes([module.trained for module in modules]),
        stored=_shapes([module.stored for module in modules]),
        derived=_derived(method),
        needs=_needs(method),
        parameters=write_size([module.parameters for module in modules]),
    )


@cache
def _b16_sized() -> Backbone:
    """A CLIP with the widths and depths of ViT-B/16."""
    widths = dict(token_width=512, embed_dim=512, image_width=768, head_width=64)
    return build_clip("b16-sized", seed=7, **widths)


def _start(method: type[Method], classes: int, shots: int) -> Module:
    """A module at the sizes of ViT-B/16: of a trained method before its first step."""
    backbone = _b16_sized()
    labels = relabel((*LABELS.names, "cat", "blue car", "boat")[:classes])
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(classes).repeat_interleave(shots)
    views = torch.randn(2, len(targets), backbone.embed_dim, generator=generator)
    shown = FeatureSet(views[0], views, targets)
    data, instance = FewShotData(labels, shots, shown, shown), MethodUnderTest(method).build()
    if isinstance(instance, TrainedMethod):
        return instance.init(backbone, data, generator)
    return instance.fit(backbone, data, generator)


def write_size(sizes: Sequence[int]) -> str:
    """Sizes at the ``DRAWS`` as a sum of parts that grow with C, with N, or with both."""
    grid = np.array([[1, c, c * shots, c * c * shots] for c, shots in DRAWS])
    factors = np.rint(np.linalg.solve(grid, sizes)).astype(int)
    assert (grid @ factors == sizes).all(), "no sum of parts that grow with C, with N, or with both"
    units = zip(factors, ("", "C", "N", "C · N"), strict=True)
    parts = [
        unit if unit and count == 1 else f"{count:,} · {unit}".removesuffix(" · ")
        for count, unit in units
        if count
    ]
    return " + ".join(parts) or "0"


def _shapes(groups: Sequence[dict[str, Tensor]]) -> tuple[str, ...]:
    """Names and shapes; tensors whose names differ in numbers alone are given once."""
    found: dict[str, int] = {}
    for name in groups[0]:
        sizes = zip(*(group[name].shape for group in groups), strict=True)
        text = f"{re.sub('[0-9]+', '*', name)}: {' × '.join(map(_symbol, sizes)) or '1'}"
        found[text] = found.get(text, 0) + 1
    return tuple(f"{text} ({times} times)" if times > 1 else text for text, times in found.items())


def _symbol(sizes: Sequence[int]) -> str:
    """A size as a number, or as the letter of what it grows with."""
    small, more_images, more_classes, _ = sizes
    if small == more_images == more_classes:
        return f"{small:,}"
    return "N" if more_images != small else "C"


def _derived(method: type[Method]) -> tuple[str, ...]:
    """What is asked of a backbone while a module is attached and images are classified."""
    tested, asked = MethodUnderTest(method), set()
    inputs, module = tested.inputs(tested.source, unseen_images()), tested.module

    class Watched(Backbone):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattribute__(name)

    backbone = copy.copy(tested.source)
    backbone.__class__ = Watched
    with torch.no_grad():
        tested.attach(backbone, module)(inputs)
    # What the backbone asks of itself, to answer, is not asked by the method.
    if asked & ASKED["zero-shot text features"] and not asked & {"prompts", "image_prompts"}:
        asked -= {"embed", "encode_prompts"}
    return tuple(what for what, names in ASKED.items() if names & asked)


def _needs(method: type[Method]) -> tuple[str, ...]:
    tested = MethodUnderTest(method)

    def refuses(backbone: Backbone, classes: int) -> bool:
        try:
            tested.logits(backbone, labels=relabel(LABELS.names[:classes]))
        except NotTransferable:
            return True
        return False

    others, all_classes = tested.models.others, len(LABELS)
    needs = [word for what, word in SIZES.items() if refuses(others[what], all_classes)]
    return (*needs, "classes") if refuses(tested.source, 3) else tuple(needs)
