"""How class tokens and text features have moved, and whether that tells what methods lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.labels import Labels
from compatbench.data.task import Task
from compatbench.pages.suite_page import SuitePage
from compatbench.results.bootstrap import Interval, spearman_interval
from compatbench.results.measures import Standing, Upgrade
from compatbench.studies.similarity import (
    linear_cka,
    modality_gap,
    neighbour_overlap,
    procrustes_residual,
    row_cosines,
)

NEIGHBOURS = 5


@dataclass(frozen=True)
class Geometry:
    """One task before and after an upgrade; None where a figure is not defined.

    Token figures are of the classes' mean token embeddings, text figures of the text
    features of the task's first template, image figures of the test images' class means.

    Attributes:
        token_cosine: mean over classes of the cosine between old and new; None if the widths
            differ.
        text_cosine: the same of text features; None if the joint spaces differ in size.
        text_procrustes: what the best rotation and scale leave of the difference, 0 to 1.
        text_cka, image_cka: linear CKA over the classes.
        text_neighbours: share of the nearest other classes that stay the same.
        image_procrustes, image_neighbours: as for text features.
        source_gap, target_gap: distance of the means of normalised image and text features.
    """

    task: str
    classes: int
    token_cosine: float | None
    text_cosine: float | None
    text_procrustes: float | None
    text_cka: float | None
    text_neighbours: float | None
    image_procrustes: float | None
    image_cka: float | None
    image_neighbours: float | None
    source_gap: float
    target_gap: float
    gap_change: float


# What may tell a loss beforehand, by the name of the figure.
PREDICTORS = {
    "token_cosine": "token cosine",
    "text_cosine": "text cosine",
    "text_procrustes": "text Procrustes",
    "text_cka": "text CKA",
    "text_neighbours": "text neighbours",
    "image_procrustes": "image Procrustes",
    "image_cka": "image CKA",
    "image_neighbours": "image neighbours",
    "gap_change": "gap change",
}


@dataclass(frozen=True)
class Prediction:
    """How well a figure of the tasks tells, by rank, what a method loses on them.

    Attributes:
        method: its name; empty for the mean over all complete methods.
        loss: mean over tasks of the loss, in points.
        correlation: Spearman's, with an interval over tasks; None if it is not defined.
    """

    method: str
    measure: str
    tasks: int
    loss: float
    correlation: Interval | None


def measure_geometry(
    source: Backbone, target: Backbone, task: Task, cache: FeatureCache
) -> Geometry:
    """The figures of one task.

    Raises:
        CompatbenchError: a prompt too long for a text tower, or images that cannot be read.
    """
    labels = task.labels
    tokens = mean_tokens(source, labels), mean_tokens(target, labels)
    texts = _text_features(source, labels), _text_features(target, labels)
    images = _image_features(source, task, cache), _image_features(target, task, cache)
    targets = torch.tensor([sample.label for sample in task.split("test")])
    means = _class_means(images[0], targets), _class_means(images[1], targets)
    count = min(NEIGHBOURS, len(labels) - 1)
    shared = len(means[0])
    gaps = [modality_gap(*both) for both in zip(images, texts, strict=True)]
    return Geometry(
        task=task.name,
        classes=len(labels),
        token_cosine=_mean_cosine(*tokens),
        text_cosine=_mean_cosine(*texts),
        text_procrustes=procrustes_residual(*texts),
        text_cka=linear_cka(*texts),
        text_neighbours=neighbour_overlap(*texts, count) if count else None,
        image_procrustes=procrustes_residual(*means),
        image_cka=linear_cka(*means),
        image_neighbours=neighbour_overlap(*means, min(NEIGHBOURS, shared - 1))
        if shared > 1
        else None,
        source_gap=gaps[0],
        target_gap=gaps[1],
        gap_change=gaps[1] - gaps[0],
    )


def class_cosines(source: Backbone, target: Backbone, labels: Labels) -> list[float | None]:
    """For each class the cosine of its old and new text feature; None if the sizes differ."""
    old, new = _text_features(source, labels), _text_features(target, labels)
    return row_cosines(old, new).tolist() if old.shape == new.shape else [None] * len(labels)


def mean_tokens(backbone: Backbone, labels: Labels) -> Tensor:
    """The mean token embedding of each class name, ``[C, D]``."""
    rows, lengths = backbone.name_tokens(labels)
    counts = torch.tensor(lengths, device=rows.device)
    inside = torch.arange(rows.shape[1], device=rows.device) < counts[:, None]
    return ((rows * inside[..., None]).sum(1) / counts[:, None]).cpu()


def predict_losses(
    page: SuitePage, geometry: Sequence[Geometry], upgrade: Upgrade
) -> list[Prediction]:
    """Correlates every figure with every complete method's loss, and with the mean loss.

    The loss on a task is the gain on the source minus the gain on the target, each over
    the zero-shot of its own backbone: what the module is worth less after the upgrade.

    Returns:
        Nothing if the suite has no such upgrade, or no complete method.
    """
    if upgrade not in page.expected.upgrades:
        return []
    known = [one for one in geometry if one.task in page.expected.tasks]
    tasks = [one.task for one in known]
    losses: dict[str, list[float]] = {}
    for ranked in page.ranks(upgrade, max(page.expected.shots)):
        standing = ranked.standing
        if standing.state == "complete" and standing.info.depth != "none":
            losses[standing.info.name] = [_loss(standing, task) for task in tasks]
    if not losses or not tasks:
        return []
    columns = zip(*losses.values(), strict=True)
    losses = {"": [sum(column) / len(losses) for column in columns], **losses}
    return [
        Prediction(
            method,
            measure,
            len(tasks),
            sum(values) / len(values),
            _correlate([getattr(one, measure) for one in known], values),
        )
        for method, values in losses.items()
        for measure in PREDICTORS
    ]


@dataclass(frozen=True)
class PredictionSummary:
    """One figure against the losses of all methods.

    Attributes:
        mean: its correlation with the mean loss over methods.
        clear: methods whose interval does not contain 0.
    """

    measure: str
    mean: Interval | None
    clear: int
    methods: int


def summarize_predictions(predictions: Sequence[Prediction]) -> list[PredictionSummary]:
    """One line per figure, in the order of ``PREDICTORS``."""
    summaries = []
    for measure in PREDICTORS:
        of = [one for one in predictions if one.measure == measure]
        (mean,) = [one.correlation for one in of if not one.method]
        found = [one.correlation for one in of if one.method]
        clear = sum(one is not None and one.sign != 0 for one in found)
        summaries.append(PredictionSummary(measure, mean, clear, len(found)))
    return summaries


def _correlate(figures: Sequence[float | None], losses: Sequence[float]) -> Interval | None:
    known = [figure for figure in figures if figure is not None]
    return spearman_interval(known, losses) if len(known) == len(losses) else None


def _loss(standing: Standing, task: str) -> float:
    source, target = standing.mean("source_gain", task), standing.mean("gain", task)
    assert source is not None
    assert target is not None
    return source.value - target.value


def _mean_cosine(x: Tensor, y: Tensor) -> float | None:
    return float(row_cosines(x, y).mean()) if x.shape == y.shape else None


def _text_features(backbone: Backbone, labels: Labels) -> Tensor:
    return F.normalize(backbone.text_features(labels.fill()).cpu(), dim=-1)


def _image_features(backbone: Backbone, task: Task, cache: FeatureCache) -> Tensor:
    features = cache.features(backbone, task, list(task.split("test"))).cpu()
    return F.normalize(features, dim=-1)


def _class_means(features: Tensor, targets: Tensor) -> Tensor:
    """The mean of each class that has images, in label order, ``[classes, e]``."""
    present = targets.unique()
    return torch.stack([features[targets == label].mean(0) for label in present])
