"""The class texts that a method starts from: which of a task's templates they are in."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import Backbone, Labels

# A task's first template, all but its first, or all. On the cards of CoOp's datasets the first is
# the dataset's own, and the rest are the seven that Tip-Adapter selected for ImageNet.
Templates = Literal["first", "rest", "all"]


def choose_templates(labels: Labels, which: Templates) -> tuple[str, ...]:
    """The chosen templates; the only one of a task that has no others."""
    if which == "first":
        return labels.templates[:1]
    return labels.templates[which == "rest" :] or labels.templates


def mean_texts(backbone: Backbone, labels: Labels, which: Templates) -> Tensor:
    """Text features averaged over templates, ``[C, e]``, normalised neither before nor after."""
    features = [backbone.text_features(labels.fill(t)) for t in choose_templates(labels, which)]
    return features[0] if len(features) == 1 else torch.stack(features).mean(0)


def class_texts(backbone: Backbone, labels: Labels, which: Templates | None) -> tuple[Tensor, ...]:
    """Features of each class in the chosen templates, if any, and of its descriptions.

    Normalised, ``[texts, e]``, templates first.

    Raises:
        NotTransferable: the task has no descriptions.
    """
    described = backbone.describe(labels)
    if which is None:
        return described
    written = [backbone.zero_shot(labels, template) for template in choose_templates(labels, which)]
    by_class = torch.stack(written, dim=1)
    return tuple(torch.cat(pair) for pair in zip(by_class, described, strict=True))


def zero_shot(backbone: Backbone, labels: Labels, which: Templates) -> Tensor:
    """Zero-shot weights, ``[C, e]``: normalised text features, averaged and normalised again."""
    weights = [backbone.zero_shot(labels, template) for template in choose_templates(labels, which)]
    return weights[0] if len(weights) == 1 else F.normalize(torch.stack(weights).mean(0), dim=-1)
