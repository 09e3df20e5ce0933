"""Zero-shot accuracy, measured and held against published figures.

``published.csv`` holds them, in percent, each with its test set and source:

* ``open_clip``: docs/openclip_results.csv of mlfoundations/open_clip; mean per-class recall for
  Caltech101, Pets, Flowers102 and Aircraft, top-1 for the rest.
* ``CLIP_benchmark``: benchmark/benchmark.csv of LAION-AI/CLIP_benchmark; both metrics.
* ``OSTB``: the table in the README of Afleve/OSTB, on CoOp's splits. One source, not reviewed;
  it states neither prompts nor the weights of all its models.

OpenAI's rows were computed with QuickGELU, under the name ``ViT-B-16``; they stand here under
``ViT-B-16-quickgelu``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.cards import BackboneCard
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task

# Points by which the two first sources differ at most, on equal metrics, over 13 models; and
# never less than 0.3, for another library of image operations.
TOLERANCES = {"stanford_cars": 0.31, "oxford_pets": 0.41, "fgvc_aircraft": 0.3, "imagenet": 0.3}
TOLERANCES |= {f"imagenet_{variant}": 0.3 for variant in ("v2", "sketch", "a", "r")}
# The table on CoOp's splits is a loose check: it decides nothing.
LOOSE_TOLERANCE = 1.0

# The templates of the figures, but for ImageNet's, which open_clip has.
TEMPLATES = {
    "stanford_cars": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of my {}.",
        "i love my {}!",
        "a photo of my dirty {}.",
        "a photo of my clean {}.",
        "a photo of my new {}.",
        "a photo of my old {}.",
    ),
    "oxford_pets": ("a photo of a {}, a type of pet.",),
    "fgvc_aircraft": (
        "a photo of a {}, a type of aircraft.",
        "a photo of the {}, a type of aircraft.",
    ),
}


@dataclass(frozen=True)
class Figure:
    """One published accuracy in percent, over some test images and classes."""

    task: str
    model: str
    tag: str
    value: float
    metric: Literal["top1", "recall"]
    images: int
    classes: int
    source: str

    @property
    def loose(self) -> bool:
        """Whether it can be looked at, but decides nothing."""
        return self.source == "OSTB"

    @property
    def tolerance(self) -> float:
        """Points that a measurement may be away from it."""
        return LOOSE_TOLERANCE if self.loose else TOLERANCES.get(self.task, LOOSE_TOLERANCE)

    def why_not_comparable(self, card: BackboneCard, images: int, classes: int) -> str:
        """Why it may not be compared with a measurement; empty if it may.

        Args:
            images: of the test set here.
            classes: of the task here.
        """
        if card.path is not None:
            return "the weights are a file of your own, which may not be the release"
        if self.classes != classes:
            return f"it is over {self.classes} classes, here are {classes}"
        if self.images != images:
            return f"it is over {self.images:,} test images of another split, here are {images:,}"
        if not self.loose and self.task not in TOLERANCES:
            return "it is over other test images than CoOp's"
        return ""


@dataclass(frozen=True)
class Comparison:
    """A published figure beside what was measured with its prompts and its metric.

    Attributes:
        figure: None where nothing was published.
        measured: in percent.
        reason: why the figure may be compared, or why not.
        comparable: whether it may.
    """

    task: str
    backbone: str
    figure: Figure | None
    measured: float
    reason: str
    comparable: bool

    @property
    def agrees(self) -> bool | None:
        """Whether the two are within the tolerance; None if they may not be compared."""
        if self.figure is None or not self.comparable:
            return None
        return abs(self.measured - self.figure.value) <= self.figure.tolerance

    @property
    def failed(self) -> bool:
        """Whether something is wrong here: a figure that decides, and another measurement."""
        return self.agrees is False and self.figure is not None and not self.figure.loose


@cache
def read_figures() -> tuple[Figure, ...]:
    """All published figures."""
    rows = pd.read_csv(Path(__file__).with_name("published.csv")).to_dict("records")
    return tuple(Figure(**{str(name): value for name, value in row.items()}) for row in rows)


def find_figures(card: BackboneCard, task: str) -> list[Figure]:
    """The published figures of a backbone's release on a task."""
    release = (task, card.config, card.tag)
    return [one for one in read_figures() if (one.task, one.model, one.tag) == release]


def published_prompts(task: str, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts that the published figures were made with: for each template, one of each class.

    Empty for a task of which no figure on the same images was published with its prompts.
    """
    if task == "imagenet" or task.startswith("imagenet_"):
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        # open_clip has them as functions of the class name.
        return [tuple(map(template, names)) for template in OPENAI_IMAGENET_TEMPLATES]
    if task == "stanford_cars":
        # The dataset itself has "Acura TL Sedan 2012" for "2012 Acura TL Sedan".
        names = [re.sub(r"^(\d{4}) (.*)$", r"\2 \1", name) for name in names]
    templates = TEMPLATES.get(task, ())
    return [tuple(template.replace("{}", name) for name in names) for template in templates]


@torch.no_grad()
def compare_zero_shot(backbone: Backbone, task: Task, cache: FeatureCache) -> list[Comparison]:
    """Measures zero-shot on a task's test images, once for every published figure.

    A figure is measured with its own prompts where they are known, and otherwise with the task's
    first template, which is also used where nothing was published.

    Raises:
        CompatbenchError: an image that cannot be read.
    """
    samples, card, names = task.split("test"), backbone.card, task.labels.names
    features = F.normalize(cache.features(backbone, task, samples), dim=-1)
    targets = torch.tensor([sample.label for sample in samples], device=features.device)

    def measure(weights: Tensor, metric: str) -> float:
        """Share of the images that are right, or mean of the classes' shares, in percent."""
        right = ((features @ weights.T).argmax(-1) == targets).double()
        if metric == "recall":
            right = torch.stack([right[targets == label].mean() for label in targets.unique()])
        return 100 * float(right.mean())

    single = backbone.zero_shot(task.labels)
    figures = find_figures(card, task.name)
    if not figures:
        reason, measured = "nothing is published for this pair", measure(single, "top1")
        return [Comparison(task.name, backbone.name, None, measured, reason, False)]
    decided = not all(figure.loose for figure in figures)
    texts = published_prompts(task.name, names) if decided else []
    # Mean of normalised features, normalised.
    each = [F.normalize(backbone.text_features(filled), dim=-1) for filled in texts]
    ensemble = F.normalize(reduce(torch.add, each), dim=-1) if each else single
    compared = []
    for figure in figures:
        measured = measure(single if figure.loose else ensemble, figure.metric)
        why_not = figure.why_not_comparable(card, len(samples), len(names))
        why = "same test images, prompts and metric"
        if figure.loose:
            why = "same split by its size; prompts not stated: a loose check that decides nothing"
        one = Comparison(task.name, backbone.name, figure, measured, why_not or why, not why_not)
        compared.append(one)
    return compared
