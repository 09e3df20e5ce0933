"""Compare zero-shot accuracy that is measured here with the figures of ``results/published/``.

The sources of some figures used prompts and test images of their own: here they are measured with
those prompts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.cards import BackboneCard, backbone_cards
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.data.task import Task
from compatbench.results.published import read_published
from compatbench.tables.table import records

# Points by which the two first sources differ at most, on equal metrics, over 13 models; and
# never less than 0.3, for another library of image operations.
TOLERANCES = {
    "stanford_cars": 0.31,
    "oxford_pets": 0.41,
    "fgvc_aircraft": 0.3,
    "imagenet": 0.3,
    "imagenet_v2": 0.3,
    "imagenet_sketch": 0.3,
    "imagenet_a": 0.3,
    "imagenet_r": 0.3,
}
# The table on CoOp's splits is a loose check, within a point: it decides nothing.
LOOSE = "OSTB"
Verdict = Literal["agrees", "disagrees", "differs", "not compared"]

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
class Comparison:
    """Zero-shot accuracy in percent, and a published figure beside it if there is one."""

    task: str
    backbone: str
    measured: float
    reason: str  # why the figure may be compared, or why not
    metric: Literal["top1", "recall"] = "top1"
    published: float | None = None
    source: str = ""
    within: float = 0.0  # points that a measurement may be away from the figure
    # A figure that decides nothing ``differs`` and never ``disagrees``.
    verdict: Verdict = "not compared"


def find_figures(card: BackboneCard, task: str) -> list[dict[str, Any]]:
    """Return the published figures of a backbone's release on a task, whatever its name is."""
    figures = read_published()
    on_task = (figures["protocol"] == "own prompts") & (figures["test_set"] == task)
    names = []
    for name in set(figures.loc[on_task, "backbone"]):
        other = backbone_cards.read(name)
        if (other.config, other.tag) == (card.config, card.tag):
            names.append(name)
    return records(figures.loc[on_task & figures["backbone"].isin(names)])


def why_not_comparable(
    figure: Mapping[str, Any], card: BackboneCard, images: int, classes: int
) -> str:
    """Return why a figure may not be compared with a measurement here; empty if it may."""
    if card.path is not None:
        return "the weights are a file of your own, which may not be the release"
    if figure["classes"] != classes:
        return f"it is over {figure['classes']} classes, here are {classes}"
    if figure["images"] != images:
        return f"it is over {figure['images']:,} test images of another split, here are {images:,}"
    if figure["source"] != LOOSE and figure["test_set"] not in TOLERANCES:
        return "it is over other test images than CoOp's"
    return ""


def judge(figure: Mapping[str, Any], measured: float, within: float) -> Verdict:
    """Return the verdict of a measurement on a figure that may be compared with it."""
    if abs(measured - figure["accuracy"]) <= within:
        return "agrees"
    return "differs" if figure["source"] == LOOSE else "disagrees"


def published_labels(task: str, names: Sequence[str]) -> Labels:
    """Return the names and templates that the published figures were made with.

    There are no templates for a task of which no figure on the same images was published with them.
    """
    templates = TEMPLATES.get(task, ())
    if task == "imagenet" or task.startswith("imagenet_"):
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        # open_clip has them as functions of the class name.
        templates = tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    if task == "stanford_cars":
        # The dataset itself has "Acura TL Sedan 2012" for "2012 Acura TL Sedan".
        names = [re.sub(r"^(\d{4}) (.*)$", r"\2 \1", name) for name in names]
    return Labels(tuple(names), templates, "")


@torch.no_grad()
def compare_zero_shot(backbone: Backbone, task: Task, cache: FeatureCache) -> list[Comparison]:
    """Measure zero-shot on a task's test images, once for every published figure.

    A figure is measured with its own prompts where they are known, and otherwise with the task's
    first template, which is also used where nothing was published.
    """
    samples = task.split("test")
    card = backbone.card
    names = task.labels.names
    features = F.normalize(cache.features(backbone, task, samples), dim=-1)
    targets = torch.tensor([sample.label for sample in samples], device=features.device)

    def measure(weights: Tensor, metric: str) -> float:
        """Return the accuracy over images, or the mean over classes (``recall``), in percent."""
        right = ((features @ weights.T).argmax(-1) == targets).double()
        if metric == "recall":
            right = torch.stack([right[targets == label].mean() for label in targets.unique()])
        return 100 * float(right.mean())

    single = backbone.zero_shot(task.labels)
    figures = find_figures(card, task.name)
    if not figures:
        reason = "nothing is published for this pair"
        return [Comparison(task.name, backbone.name, measure(single, "top1"), reason)]
    # The prompts of a loose figure are not known.
    decided = any(figure["source"] != LOOSE for figure in figures)
    labels = published_labels(task.name, names)
    ensemble = single
    if decided and labels.templates:
        ensemble = backbone.zero_shot_ensemble(labels)
    compared = []
    for figure in figures:
        if figure["source"] == LOOSE:
            why = "same split by its size; prompts not stated: a loose check that decides nothing"
            weights = single
            within = 1.0
        else:
            why = "same test images, prompts and metric"
            weights = ensemble
            within = TOLERANCES.get(task.name, 1.0)
        measured = measure(weights, figure["metric"])
        why_not = why_not_comparable(figure, card, len(samples), len(names))
        comparison = Comparison(
            task=task.name,
            backbone=backbone.name,
            measured=measured,
            reason=why_not or why,
            metric=figure["metric"],
            published=figure["accuracy"],
            source=figure["source"],
            within=within,
            verdict="not compared" if why_not else judge(figure, measured, within),
        )
        compared.append(comparison)
    return compared
