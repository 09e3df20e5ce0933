"""The class texts that a method starts from, in some or all of a task's templates."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator
from torch import Tensor

from compatbench.backbone.text.prompts import Prompts
from compatbench.method import Backbone, Labels

# A task's first template, all but its first, or all. On the cards of CoOp's datasets the first
# template is the dataset's own; the rest are the seven that Tip-Adapter selected for ImageNet.
Templates = Literal["first", "rest", "all"]


def check_template(template: str) -> str:
    """Return a template that has one place for the class name.

    Raises:
        ValueError: it has none, several, or other braces.
    """
    if not re.fullmatch(r"[^{}]*\{\}[^{}]*", template):
        raise ValueError(f"{template!r} must contain {{}} once, for the class name")
    return template


Template = Annotated[str, AfterValidator(check_template)]


def choose_templates(labels: Labels, templates: Templates) -> tuple[str, ...]:
    """Return the chosen templates of a task. A task with one template always gives that one."""
    if templates == "first":
        return labels.templates[:1]
    if templates == "rest" and len(labels.templates) > 1:
        return labels.templates[1:]
    return labels.templates


def fill_templates(labels: Labels, templates: Templates) -> tuple[str, ...]:
    """Return all class names in one template, then in the next, ``[T · C]``."""
    texts = []
    for template in choose_templates(labels, templates):
        texts.extend(labels.fill(template))
    return tuple(texts)


def select_texts(prompts: Prompts, rows: Tensor) -> Prompts:
    """Return the prompts with these numbers. ``rows`` must be on the CPU."""
    lengths = tuple(prompts.lengths[row] for row in rows.tolist())
    suffix = prompts.suffix[rows.to(prompts.suffix.device, non_blocking=True)]
    return replace(prompts, suffix=suffix, lengths=lengths)


def mean_texts(backbone: Backbone, labels: Labels, templates: Templates) -> Tensor:
    """Return text features averaged over templates, ``[C, e]``, without any normalisation."""
    features = []
    for template in choose_templates(labels, templates):
        features.append(backbone.text_features(labels.fill(template)))
    if len(features) == 1:
        return features[0]
    return torch.stack(features).mean(0)


def class_texts(
    backbone: Backbone, labels: Labels, templates: Templates | None
) -> tuple[Tensor, ...]:
    """Return for each class the normalised features of its texts, ``[texts, e]``.

    The texts are its name in the chosen templates, if any, and then its descriptions.

    Raises:
        NotTransferable: the task has no descriptions.
    """
    described = backbone.describe(labels)
    if templates is None:
        return described
    written = []
    for template in choose_templates(labels, templates):
        written.append(backbone.zero_shot(labels, template))
    by_class = torch.stack(written, dim=1)
    return tuple(torch.cat(pair) for pair in zip(by_class, described, strict=True))


def zero_shot(backbone: Backbone, labels: Labels, templates: Templates) -> Tensor:
    """Return zero-shot weights ``[C, e]``: the normalised mean of normalised text features."""
    weights = []
    for template in choose_templates(labels, templates):
        weights.append(backbone.zero_shot(labels, template))
    if len(weights) == 1:
        return weights[0]
    return F.normalize(torch.stack(weights).mean(0), dim=-1)
