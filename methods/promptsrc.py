"""PromptSRC: deep prompts in both towers, held near the frozen model while they are learned.

Prompts in both towers are trained as in IVLP. Three losses hold features and predictions near
those of the frozen model, and the prompts of all epochs are averaged.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, Labels, MethodCard
from compatbench.method.trained import Batch, Recipe

from ._shared.towers import PromptedClassifier
from .ivlp import IVLP


class PromptSRC(IVLP):
    """IVLP with three consistency losses, and the average of the prompts over the epochs.

    Khattak et al., *Self-regulating Prompts: Foundational Model Adaptation without Forgetting*,
    section 3.2: L = L_ce + 25 · mean|t̂ − t̂*| + 10 · mean|f̂ − f̂⁰| + KL(softmax z⁰ ‖ softmax
    z) / (B · C), where f̂⁰ is the frozen tower's feature of the same view, t̂* the mean feature
    of many templates, normalised afterwards, and z⁰ = s f̂⁰ t̂*ᵀ. Means run over all entries,
    and the divergence is summed over all images. The module is Σ_j w_j θ_j over the epochs j =
    1 ... E, where w is a normalised Gaussian (section 3.3): N(30, 30²) at E = 50, given here in
    parts of E. n = m = 4, J = K = 9.

    In detail: the templates are the first 60 of CLIP's for ImageNet, for every task, or the
    task's own. The authors use N(45, 5²) for fine-grained tasks.
    """

    card = MethodCard(
        name="promptsrc",
        title="PromptSRC",
        paper="arXiv:2307.06948",
        inserts=("text-input", "text-layers", "image-layers"),
        summary="deep prompts in both towers, held near the frozen model",
    )

    class Config(IVLP.Config):
        recipe: Recipe = Recipe(lr=2.5e-3, epochs=50, batch_size=4)
        text_length: NonNegativeInt = 4
        text_depth: PositiveInt = 9
        image_length: NonNegativeInt = 4
        image_depth: PositiveInt = 9
        text_weight: NonNegativeFloat = 25.0
        image_weight: NonNegativeFloat = 10.0
        logit_weight: NonNegativeFloat = 1.0
        templates: Literal["imagenet", "task"] = "imagenet"
        average_mean: Annotated[float, Field(ge=0, le=1)] = 0.6
        average_std: PositiveFloat = 0.6

    config: Config

    def loss(self, classifier: PromptedClassifier, batch: Batch) -> Tensor:
        config = self.config
        features = classifier.encode(batch.inputs)
        logits = classifier.classify(features)
        frozen = F.normalize(batch.features, dim=-1)
        teacher = teacher_features(batch.backbone, batch.labels, config.templates)
        frozen_logits = classifier.scale * frozen @ teacher.T
        divergence = F.kl_div(
            logits.log_softmax(-1),
            frozen_logits.log_softmax(-1),
            reduction="sum",
            log_target=True,
        )
        return (
            F.cross_entropy(logits, batch.targets)
            + config.text_weight * F.l1_loss(classifier.weights, teacher)
            + config.image_weight * F.l1_loss(F.normalize(features, dim=-1), frozen)
            + config.logit_weight * divergence / logits.numel()
        )

    def epoch_weights(self, epochs: int) -> list[float]:
        mean = self.config.average_mean * epochs
        std = self.config.average_std * epochs
        densities = [math.exp(-0.5 * ((j - mean) / std) ** 2) for j in range(1, epochs + 1)]
        total = sum(densities)
        return [density / total for density in densities]


@lru_cache(maxsize=1)
def teacher_features(backbone: Backbone, labels: Labels, templates: str) -> Tensor:
    """Return t̂*, ``[C, e]``: the mean of text features over templates, normalised afterwards."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    if templates == "task":
        texts = [labels.fill(template) for template in labels.templates]
    else:
        # open_clip's templates are functions of a name.
        texts = [tuple(map(fill, labels.names)) for fill in OPENAI_IMAGENET_TEMPLATES[:60]]
    features = torch.stack([backbone.text_features(filled) for filled in texts])
    return F.normalize(features.mean(0), dim=-1)
