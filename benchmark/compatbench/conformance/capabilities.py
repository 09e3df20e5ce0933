"""What a method carries, derives and needs: measured by fitting and attaching it, not declared."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from compatbench.conformance.models import build_b16_sized
from compatbench.conformance.subject import LABELS, Subject, unseen_images
from compatbench.data.labels import Labels
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


@dataclass(frozen=True)
class Size:
    """A number that grows with the classes C and the training images N: a + b C + c N + d C N."""

    fixed: int
    per_class: int
    per_image: int
    per_both: int = 0

    def __str__(self) -> str:
        parts = [f"{self.fixed:,}"] if self.fixed else []
        parts += [f"{self.per_class:,} · C"] if self.per_class else []
        parts += [f"{self.per_image:,} · N"] if self.per_image else []
        if self.per_both:
            parts.append("C · N" if self.per_both == 1 else f"{self.per_both:,} · C · N")
        return " + ".join(parts) or "0"


@dataclass(frozen=True)
class Capability:
    """What the capability table says of a method.

    Attributes:
        trained, stored: the module's tensors with their shapes at the sizes of ViT-B/16.
        derived: what attach asks of the backbone.
        needs: what must be equal on source and target.
        parameters: numbers that a fit determines, at the sizes of ViT-B/16.
    """

    trained: tuple[str, ...]
    stored: tuple[str, ...]
    derived: tuple[str, ...]
    needs: tuple[str, ...]
    parameters: Size


def examine_method(method: type[Method]) -> Capability:
    """Fits and attaches a method on models without a meaning, and looks at what it does."""
    small, more_images, more_classes, both = (
        _start(method, classes, shots) for classes, shots in ((4, 1), (4, 2), (8, 1), (8, 2))
    )
    modules = (small, more_images, more_classes)
    return Capability(
        trained=_shapes([module.trained for module in modules]),
        stored=_shapes([module.stored for module in modules]),
        derived=_derived(method),
        needs=_needs(method),
        parameters=_size(*(m.parameters for m in (small, more_images, more_classes, both))),
    )


def _start(method: type[Method], classes: int, shots: int) -> Module:
    """A module at the sizes of ViT-B/16: of a trained method before its first step."""
    backbone, subject = _b16_sized(), Subject(method)
    names = (*LABELS.names, "cat", "blue car", "boat")[:classes]
    labels = Labels(names, LABELS.templates, LABELS.teacher_template)
    generator = torch.Generator().manual_seed(1)
    targets = torch.arange(classes).repeat_interleave(shots)
    views = torch.randn(2, len(targets), backbone.embed_dim, generator=generator)
    shown = FeatureSet(views[0], views, targets)
    data, instance = FewShotData(labels, shots, shown, shown), subject.build()
    if isinstance(instance, TrainedMethod):
        return instance.init(backbone, data, generator)
    return instance.fit(backbone, data, generator)


@cache
def _b16_sized() -> Backbone:
    return build_b16_sized()


def _size(small: int, more_images: int, more_classes: int, both: int) -> Size:
    """The size that is 4 classes and images at first, then 8 images, 8 of both, 8 and 16."""
    per_both = (both - more_classes - 2 * (more_images - small)) // 32
    per_image = (more_images - small) // 4 - 4 * per_both
    per_class = (more_classes - more_images) // 4 - 8 * per_both
    size = Size(
        small - 4 * per_class - 4 * per_image - 16 * per_both, per_class, per_image, per_both
    )
    found = size.fixed + 8 * per_class + 16 * per_image + 128 * per_both
    assert both == found, "no sum of parts that grow with C, with N, or with both"
    return size


def _shapes(groups: list[dict[str, Tensor]]) -> tuple[str, ...]:
    """Names and shapes; tensors whose names differ in numbers alone are told as one."""
    found: dict[str, int] = {}
    for name in groups[0]:
        sizes = zip(*(group[name].shape for group in groups), strict=True)
        shape = " × ".join(map(_symbol, sizes)) or "1"
        text = f"{re.sub('[0-9]+', '*', name)}: {shape}"
        found[text] = found.get(text, 0) + 1
    return tuple(f"{text} ({times} times)" if times > 1 else text for text, times in found.items())


def _symbol(sizes: tuple[int, int, int]) -> str:
    """A size as a number, or as the letter of what it grows with."""
    small, more_images, more_classes = sizes
    if small == more_images == more_classes:
        return f"{small:,}"
    return "N" if more_images != small else "C"


def _derived(method: type[Method]) -> tuple[str, ...]:
    """What is asked of a backbone while a module is attached and images are classified."""
    subject, asked = Subject(method), set()
    inputs = subject.inputs(subject.source, unseen_images())

    class Watched(Backbone):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattribute__(name)

    module = subject.module
    backbone = copy.copy(subject.source)
    backbone.__class__ = Watched
    with torch.no_grad():
        subject.attach(backbone, module)(inputs)
    # What the backbone asks of itself, to answer, is not asked by the method.
    if asked & ASKED["zero-shot text features"] and not asked & {"prompts", "image_prompts"}:
        asked -= {"embed", "encode_prompts"}
    return tuple(what for what, names in ASKED.items() if names & asked)


def _needs(method: type[Method]) -> tuple[str, ...]:
    subject = Subject(method)
    others: Mapping[str, Backbone] = subject.bench.others
    needs = [word for what, word in SIZES.items() if _refuses(subject, others[what])]
    fewer = Labels(LABELS.names[:3], LABELS.templates, LABELS.teacher_template)
    return (*needs, "classes") if _refuses(subject, subject.source, fewer) else tuple(needs)


def _refuses(subject: Subject, backbone: Backbone, labels: Labels = LABELS) -> bool:
    try:
        subject.logits(backbone, labels=labels)
    except NotTransferable:
        return True
    return False
