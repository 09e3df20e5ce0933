"""WiSE-FT: the average of the zero-shot head and a fine-tuned one.

The zero-shot classifier is fine-tuned as a linear head on image features. The result is averaged
with the head at which it started, which keeps the robustness that fine-tuning alone loses.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Recipe, TrainedMethod

from ._shared.texts import Templates, zero_shot


class WiSEFT(TrainedMethod):
    """z = f̂ Wᵀ + b with (W, b) = (1 − α) (s W_0, 0) + α (W_1, b_1), and W_1, b_1 fine-tuned.

    Wortsman et al., *Robust fine-tuning of zero-shot models*, section 3, in its form for the
    linear classifier, α = 0.5. The form for the image tower is ``wise_ft_weights``. The module
    holds α (W_1 − s W_0) and α b_1, to which the backbone's own s W_0 is added. Weight decay
    pulls towards the zero-shot head.
    """

    card = MethodCard(
        name="wise_ft",
        title="WiSE-FT (head)",
        paper="arXiv:2109.01903",
        inserts="classifier",
        summary="average of zero-shot and fine-tuned class weights",
        zero_shot_at={"weight": 0.0, "bias": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=1e-3,
            weight_decay=0.1,
            epochs=10,
            batch_size=128,
            schedule="cosine-step",
        )
        alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
        templates: Templates = "first"

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        text = zero_shot(backbone, data.labels, self.config.templates)
        weight = torch.zeros_like(text)
        bias = torch.zeros_like(text[:, 0])
        return Module({"weight": weight, "bias": bias})

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        alpha = self.config.alpha
        return Module({name: alpha * tensor for name, tensor in module.trained.items()})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        residual = require_shape(module, "weight", backbone.embed_dim, "image features of size")
        bias = require_shape(module, "bias", len(labels), "a number of classes of")
        text = zero_shot(backbone, labels, self.config.templates)
        weight = backbone.logit_scale * text + residual

        def classify(features: Tensor) -> Tensor:
            return F.normalize(features, dim=-1) @ weight.T + bias

        return classify
