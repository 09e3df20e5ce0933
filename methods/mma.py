"""MMA: adapters beside the later blocks of both towers meet in a shared layer.

A bottleneck runs beside each of these blocks, and image and text share its middle layer. Early
blocks, which hold general features, are left alone.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.backbone import BlockUpdates
from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Recipe, TrainedMethod

from ._shared.layers import divide_gradient
from ._shared.texts import Template
from ._shared.towers import late_blocks

# The first adapted block of twelve, counted from 0.
FIRST = 4


class MMA(TrainedMethod):
    """x becomes B_l(x) + κ · A_l(LN_l(x)) in blocks l = 5 ... 12 of both towers.

    Yang et al., *MMA: Multi-Modal Adapter for Vision-Language Models* (CVPR 2024), section 3.2.
    A_l(u) = U_l ReLU(S_l ReLU(D_l u)), each map with a bias, where LN_l is the block's own
    first norm. Each tower has its own D_l, ``[r, d]``, and U_l, ``[d, r]``; the two share S_l,
    ``[r, r]``. r = 32, κ = 0.001; the text is "a photo of a {}." for every task. In towers of
    fewer than 12 blocks, adapters are in the last two thirds of the smaller tower's blocks: 3
    to 6 of 6, 1 and 2 of 2.

    In detail: weights are drawn from N(0, 2 / rows), biases start at 0. As in the authors'
    code, the gradients of D, S and U are taken as if κ were 1: with κ the published rate would
    move nothing. The gradient of x keeps its κ.
    """

    card = MethodCard(
        name="mma",
        title="MMA",
        paper="CVPR 2024",
        inserts=("text-layers", "image-layers"),
        summary="adapters with a shared layer in late blocks of both towers",
        zero_shot_at={"*_up*": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=1.5e-3, epochs=5, batch_size=16, warmup_epochs=0)
        width: PositiveInt = 32
        scale: PositiveFloat = 1e-3
        template: Template | None = "a photo of a {}."

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=late_blocks(backbone, FIRST).start)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        count = len(late_blocks(backbone, FIRST))
        r = self.config.width
        trained = {}

        def draw(name: str, rows: int, columns: int) -> None:
            drawn = torch.randn(count, rows, columns, generator=rng) * math.sqrt(2 / rows)
            trained[name] = drawn.to(backbone.device)
            trained[f"{name}_bias"] = trained[name].new_zeros(count, rows)

        for kind, size in (("text", backbone.text.width), ("image", backbone.image.width)):
            draw(f"{kind}_down", r, size)
            draw(f"{kind}_up", size, r)
        draw("shared", r, r)
        return Module(trained)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        require_shape(module, "text_down", backbone.text.width, "text tokens of width")
        require_shape(module, "image_down", backbone.image.width, "image tokens of width")
        blocks = late_blocks(backbone, FIRST)
        scale = self.config.scale
        require_shape(module, "shared", len(blocks), "a number of adapted blocks of", dim=0)
        weights = {name: divide_gradient(x, scale) for name, x in module.trained.items()}

        def layer(rows: Tensor, name: str, i: int) -> Tensor:
            return F.linear(rows, weights[name][i], weights[f"{name}_bias"][i])

        def adapt_block(output: Tensor, rows: Tensor, kind: str, i: int) -> Tensor:
            rows = F.relu(layer(rows, f"{kind}_down", i))
            rows = F.relu(layer(rows, "shared", i))
            return output + scale * layer(rows, f"{kind}_up", i)

        def updates(kind: str) -> BlockUpdates:
            return {
                (block, "block"): partial(adapt_block, kind=kind, i=i)
                for i, block in enumerate(blocks)
            }

        prompts = backbone.text_prompts(labels.fill(self.config.template))
        texts = backbone.encode_prompts(prompts, block_updates=updates("text"))
        compare = CosineClassifier(texts, backbone.logit_scale)
        image_updates = updates("image")

        def classify(tokens: Tensor) -> Tensor:
            features = backbone.image.encode(
                tokens, block=blocks.start, block_updates=image_updates
            )
            return compare(features)

        return classify
