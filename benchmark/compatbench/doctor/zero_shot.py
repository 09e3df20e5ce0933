"""Zero-shot accuracy, measured and compared with published figures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import Task
from compatbench.doctor.published import (
    Figure,
    find_figures,
    published_prompts,
    why_comparable,
    why_not_comparable,
)


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


def compare_zero_shot(backbone: Backbone, task: Task, cache: FeatureCache) -> list[Comparison]:
    """Measures zero-shot on a task's test images, once for every published figure.

    A figure is measured with its own prompts where they are known, and otherwise with the task's
    first template, which is also used where nothing was published.

    Raises:
        CompatbenchError: an image that cannot be read.
    """
    samples = task.split("test")
    features = F.normalize(cache.features(backbone, task, samples), dim=-1)
    targets = torch.tensor([sample.label for sample in samples], device=features.device)
    single = ensemble = (features @ backbone.zero_shot(task.labels).T).argmax(-1)
    figures = find_figures(backbone.card, task.name)
    if not figures:
        reason = "nothing is published for this pair"
        return [Comparison(task.name, backbone.name, None, _top1(single, targets), reason, False)]
    if not all(figure.loose for figure in figures):
        texts = published_prompts(task.name, task.labels.names)
        ensemble = (features @ _ensemble(backbone, texts).T).argmax(-1) if texts else single
    compared = []
    for figure in figures:
        predicted = single if figure.loose else ensemble
        measure = _top1 if figure.metric == "top1" else _mean_recall
        why_not = why_not_comparable(figure, backbone.card, len(samples), len(task.labels.names))
        reason, measured = why_not or why_comparable(figure), measure(predicted, targets)
        compared.append(Comparison(task.name, backbone.name, figure, measured, reason, not why_not))
    return compared


@torch.no_grad()
def _ensemble(backbone: Backbone, texts: list[tuple[str, ...]]) -> Tensor:
    """The classifier of several templates, ``[C, e]``: mean of normalised features, normalised."""
    total = torch.zeros((), device=backbone.device)
    for names in texts:
        total = total + F.normalize(backbone.text_features(names), dim=-1)
    return F.normalize(total, dim=-1)


def _top1(predicted: Tensor, targets: Tensor) -> float:
    """Share of images that are right, in percent."""
    return 100 * float((predicted == targets).double().mean())


def _mean_recall(predicted: Tensor, targets: Tensor) -> float:
    """The same within each class that has images, averaged over these classes."""
    right = (predicted == targets).double()
    return 100 * float(
        torch.stack([right[targets == label].mean() for label in targets.unique()]).mean()
    )
