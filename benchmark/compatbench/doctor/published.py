"""Published zero-shot figures, and whether one may be compared with what is measured here.

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
from functools import cache
from pathlib import Path
from typing import Literal

import pandas as pd

from compatbench.data.cards import BackboneCard

FILE = Path(__file__).with_name("published.csv")
Metric = Literal["top1", "recall"]

# Points by which the two first sources differ at most, on equal metrics, over 13 models; and
# never less than 0.3, for another library of image operations.
TOLERANCES = {
    "imagenet": 0.3,
    "imagenet_v2": 0.3,
    "imagenet_sketch": 0.3,
    "imagenet_a": 0.3,
    "imagenet_r": 0.3,
    "stanford_cars": 0.31,
    "oxford_pets": 0.41,
    "fgvc_aircraft": 0.3,
}
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
    """One published accuracy in percent."""

    task: str
    model: str
    tag: str
    value: float
    metric: Metric
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


@cache
def read_figures() -> tuple[Figure, ...]:
    """All published figures."""
    rows = pd.read_csv(FILE).to_dict("records")
    return tuple(Figure(**{str(name): value for name, value in row.items()}) for row in rows)


def find_figures(card: BackboneCard, task: str) -> list[Figure]:
    """The published figures of a backbone's release on a task."""
    return [
        figure
        for figure in read_figures()
        if (figure.task, figure.model, figure.tag) == (task, card.config, card.tag)
    ]


def why_not_comparable(figure: Figure, card: BackboneCard, images: int, classes: int) -> str:
    """Why a figure may not be compared with a measurement; empty if it may.

    Args:
        images: of the test set here.
        classes: of the task here.
    """
    if card.path is not None:
        return "the weights are a file of your own, which may not be the release"
    if figure.classes != classes:
        return f"it is over {figure.classes} classes, here are {classes}"
    if figure.images != images:
        return f"it is over {figure.images:,} test images of another split, here are {images:,}"
    if not figure.loose and figure.task not in TOLERANCES:
        return "it is over other test images than CoOp's"
    return ""


def why_comparable(figure: Figure) -> str:
    """Why a figure may be compared with a measurement, and how far that goes."""
    if figure.loose:
        return "same split by its size; prompts not stated: a loose check that decides nothing"
    return "same test images, prompts and metric"


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
    return [
        tuple(template.replace("{}", name) for name in names)
        for template in TEMPLATES.get(task, ())
    ]
