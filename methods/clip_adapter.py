"""CLIP-Adapter: a bottleneck on the image feature, mixed with the feature itself.

Two small layers transform the image feature, and the ratio of the mixture is fixed. The class
weights stay the zero-shot text features.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
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
from compatbench.method.trained import TrainedMethod

from ._shared.layers import adapt, draw_linear


class CLIPAdapter(TrainedMethod):
    """f' = α · ReLU(A_2 ReLU(A_1 f)) + (1 − α) · f, then zero-shot classification.

    Gao et al., *CLIP-Adapter: Better Vision-Language Models with Feature Adapters*, equation 5.
    f is not normalised before the adapter; A_1 and A_2 have no bias and a bottleneck of e/4; α
    = 0.2.
    """

    card = MethodCard(
        name="clip_adapter",
        title="CLIP-Adapter",
        paper="arXiv:2110.04544",
        inserts="feature",
        summary="bottleneck on the image feature, mixed with the feature",
        zero_shot_at={"up": 0},
    )

    class Config(TrainedMethod.Config):
        ratio: Annotated[float, Field(ge=0, le=1)] = 0.2
        reduction: PositiveInt = 4

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        size = backbone.embed_dim
        hidden = size // self.config.reduction
        down = draw_linear((hidden, size), size, rng)
        up = draw_linear((size, hidden), hidden, rng)
        return Module({"down": down, "up": up}).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        down = require_shape(module, "down", backbone.embed_dim, "image features of size")
        up = module["up"]
        ratio = self.config.ratio
        scale = backbone.logit_scale
        text = backbone.zero_shot(labels)

        def classify(features: Tensor) -> Tensor:
            adapted = adapt(features, down, up, ratio)
            return scale * F.normalize(adapted, dim=-1) @ text.T

        return classify
