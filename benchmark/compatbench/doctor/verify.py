"""Zero-shot accuracy, measured and held against published figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        """Whether the two are within the tolerance; None where that is not to be asked."""
        if self.figure is None or not self.comparable:
            return None
        return abs(self.measured - self.figure.value) <= self.figure.tolerance

    @property
    def failed(self) -> bool:
        """Whether something is wrong here: a figure that decides, and another measurement."""
        return self.agrees is False and self.figure is not None and not self.figure.loose


def verify_zero_shot(backbone: Backbone, task: Task, cache: FeatureCache) -> list[Comparison]:
    """Measures zero-shot on a task's test images, once for every published figure.

    A figure is met with its own prompts where they are known, and otherwise with the task's
    first template, which is also measured where nothing was published.

    Raises:
        CompatbenchError: an image that cannot be read.
    """
    samples = task.split("test")
    features = F.normalize(cache.features(backbone, task, samples), dim=-1)
    targets = torch.tensor([sample.label for sample in samples], device=features.device)
    single = (features @ backbone.zero_shot(task.labels).T).argmax(-1)
    figures = find_figures(backbone.card, task.name)
    if not figures:
        reason = "nothing is published for this pair"
        return [Comparison(task.name, backbone.name, None, _top1(single, targets), reason, False)]
    prompts = published_prompts(task.name)
    ensemble = single
    if prompts is not None and any(not figure.loose for figure in figures):
        weights = _ensemble(backbone, task.labels.names, *prompts)
        ensemble = (features @ weights.T).argmax(-1)
    compared = []
    for figure in figures:
        guessed = single if figure.loose else ensemble
        measure = _top1 if figure.metric == "top1" else _mean_recall
        why_not = why_not_comparable(figure, backbone.card, len(samples), len(task.labels.names))
        compared.append(
            Comparison(
                task.name,
                backbone.name,
                figure,
                measure(guessed, targets),
                why_not or why_comparable(figure),
                not why_not,
            )
        )
    return compared


@torch.no_grad()
def _ensemble(
    backbone: Backbone,
    names: Sequence[str],
    templates: Sequence[str],
    spell: Callable[[str], str],
) -> Tensor:
    """The classifier of several templates, ``[C, e]``: mean of normalised features, normalised."""
    total = torch.zeros((), device=backbone.device)
    for template in templates:
        texts = tuple(template.replace("{}", spell(name)) for name in names)
        total = total + F.normalize(backbone.text_features(texts), dim=-1)
    return F.normalize(total, dim=-1)


def _top1(guessed: Tensor, targets: Tensor) -> float:
    """Share of images that are right, in percent."""
    return 100 * float((guessed == targets).double().mean())


def _mean_recall(guessed: Tensor, targets: Tensor) -> float:
    """The same within each class that has images, averaged over these classes."""
    right = (guessed == targets).double()
    return 100 * float(
        torch.stack([right[targets == label].mean() for label in targets.unique()]).mean()
    )
