"""CoCoOp: a function of the image shifts the context.

A small network reads the image feature, and its output shifts every context vector. So each image
has its own prompts and class weights, which makes predictions slow.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
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
from compatbench.method.trained import Recipe

from ._shared.layers import draw_bottleneck
from .coop import CoOp


class CoCoOp(CoOp):
    """v_m(x) = v_m + π(x): a small network turns the image feature into a shift of the context.

    Zhou et al., *Conditional Prompt Learning for Vision-Language Models*, section 3.2. π(x) =
    W_2 ReLU(W_1 f(x) + b_1) + b_2, with f(x) normalised and a bottleneck of e/16. Every image
    has its own class weights t_c(x), and z_c = s · cos(f(x), t_c(x)). The context starts at the
    words "a photo of a". On another backbone the network reads that backbone's image features.
    """

    card = MethodCard(
        name="cocoop",
        title="CoCoOp",
        paper="arXiv:2203.05557",
        inserts="text-input",
        summary="context shifted by a function of the image",
        zero_shot_at={"context": "a photo of a", "up*": 0.0},
    )

    class Config(CoOp.Config):
        recipe: Recipe = Recipe(batch_size=1, epochs=10)
        context_length: PositiveInt = 4
        context_words: str | None = "a photo of a"
        position: Literal["end"] = "end"
        class_specific: Literal[False] = False
        reduction: PositiveInt = 16

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        network = draw_bottleneck(backbone, self.config.reduction, backbone.token_width, rng)
        return Module(super().init(backbone, data, rng).trained | network)

    def attach(  # type: ignore[override]
        self, module: Module, backbone: Backbone, labels: Labels
    ) -> Classifier:
        context = require_shape(module, "context", backbone.token_width, "text tokens of width")
        require_shape(module, "down", backbone.embed_dim, "image features of size")

        def classify(features: Tensor) -> Tensor:
            if len(features) == 0:
                return features.new_zeros(0, len(labels))
            images = F.normalize(features, dim=-1)
            shifts = _shift(module, images)
            contexts = context + shifts[:, None]
            texts = backbone.encode_prompts(backbone.image_prompts(labels, contexts))
            return backbone.logit_scale * _cosines(images, texts)

        return classify


def _shift(module: Module, images: Tensor) -> Tensor:
    """Return π(x) of normalised image features, ``[B, D]``."""
    hidden = F.relu(F.linear(images, module["down"], module["down_bias"]))
    return F.linear(hidden, module["up"], module["up_bias"])


def _cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Return cosines ``[B, C]`` of images ``[B, e]`` and the texts of each, ``[B, C, e]``."""
    return torch.einsum("be,bce->bc", images, F.normalize(texts, dim=-1))
