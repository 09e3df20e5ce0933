"""MaPLe: deep text prompts, of which the image prompts are linear functions.

Learned tokens enter the first blocks of the text tower. A linear layer in each block turns them
into tokens of the image tower, so both towers are prompted together.
"""

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, MethodCard, Module
from compatbench.method.trained import Recipe

from ._shared.towers import TwoTowersPrompted


class MaPLe(TwoTowersPrompted):
    """n learned tokens P_i in the first J blocks of the text tower, F_i(P_i) in the image's.

    Khattak et al., *MaPLe: Multi-modal Prompt Learning*, section 3.2. F_i(P) = W_i P + b_i is a
    linear layer of each block, initialised as PyTorch does. n = 2, J = 9, and the text prompts
    start at "a photo of a". J is at most the number of blocks of the smaller tower. The recipe
    is the only one published, for training on the base classes, which are half of a task's.
    """

    card = MethodCard(
        name="maple",
        title="MaPLe",
        paper="arXiv:2210.03117",
        inserts=("text-input", "text-layers", "image-layers"),
        summary="deep text prompts; image prompts are linear functions of them",
    )

    class Config(TwoTowersPrompted.Config):
        recipe: Recipe = Recipe(lr=3.5e-3, epochs=5, batch_size=4)
        length: PositiveInt = 2
        depth: PositiveInt = 9

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        depth = min(self.config.depth, backbone.text.depth, backbone.image.depth)
        text = self.draw_text_prompts(backbone, depth, self.config.length, rng)
        # As ``nn.Linear`` starts: uniform within ±1/√D.
        text_width = backbone.token_width
        image_width = backbone.image.width
        bound = 1 / math.sqrt(text_width)
        weight = torch.rand(depth, image_width, text_width, generator=rng) * 2 * bound - bound
        bias = torch.rand(depth, image_width, generator=rng) * 2 * bound - bound
        trained = {"text_prompts": text, "coupling_weight": weight, "coupling_bias": bias}
        return Module(trained).to(backbone.device)

    def image_prompts(self, module: Module) -> Tensor:
        weight = module["coupling_weight"]
        bias = module["coupling_bias"]
        return module["text_prompts"] @ weight.mT + bias[:, None]
