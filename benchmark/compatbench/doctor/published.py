"""Published zero-shot figures, and whether one may be held against what is measured here.

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

import csv
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

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

_CARS = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of my {}.",
    "i love my {}!",
    "a photo of my dirty {}.",
    "a photo of my clean {}.",
    "a photo of my new {}.",
    "a photo of my old {}.",
)
_AIRCRAFT = ("a photo of a {}, a type of aircraft.", "a photo of the {}, a type of aircraft.")
_PETS = ("a photo of a {}, a type of pet.",)


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
    with FILE.open(newline="", encoding="utf-8") as file:
        return tuple(
            Figure(
                row["task"],
                row["model"],
                row["tag"],
                float(row["value"]),
                "top1" if row["metric"] == "top1" else "recall",
                int(row["images"]),
                int(row["classes"]),
                row["source"],
            )
            for row in csv.DictReader(file)
        )


def find_figures(card: BackboneCard, task: str) -> list[Figure]:
    """The published figures of a backbone's release on a task."""
    return [
        figure
        for figure in read_figures()
        if (figure.task, figure.model, figure.tag) == (task, card.config, card.tag)
    ]


def why_not_comparable(figure: Figure, card: BackboneCard, images: int, classes: int) -> str:
    """Why a figure may not be held against a measurement; empty if it may.

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
    """Why a figure may be held against a measurement, and how far that goes."""
    if figure.loose:
        return "same split by its size; prompts not stated: a loose check that decides nothing"
    return "same test images, prompts and metric"


def published_prompts(task: str) -> tuple[tuple[str, ...], Callable[[str], str]] | None:
    """The templates, and the spelling of class names, that the published figures were made with.

    None for a task of which no figure on the same images was published with them.
    """
    if task == "imagenet" or task.startswith("imagenet_"):
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        # open_clip has them as functions of the class name.
        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES), str
    prompts = {
        "stanford_cars": (_CARS, _year_last),
        "oxford_pets": (_PETS, str),
        "fgvc_aircraft": (_AIRCRAFT, str),
    }
    return prompts.get(task)


def _year_last(name: str) -> str:
    """``2012 Acura TL Sedan`` as the dataset itself has it: ``Acura TL Sedan 2012``."""
    return re.sub(r"^(\d{4}) (.*)$", r"\2 \1", name)
