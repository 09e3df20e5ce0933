"""IVLP: deep prompts in both towers, independent of each other.

Learned tokens are put beside those of the text and of the image, and renewed in each of the first
blocks of the two towers. Both sets are trained together on the shots, without a link between them.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt, PositiveInt

from compatbench.method import Backbone, FewShotData, MethodCard, Module
from compatbench.method.trained import Recipe

from ._shared.towers import TwoTowersPrompted, draw_image_prompts


class IVLP(TwoTowersPrompted):
    """m learned tokens in the first K blocks of the text tower, n in the first J of the image's.

    Independent vision-language prompting, the baseline of Khattak et al., *MaPLe: Multi-modal
    Prompt Learning*, section 4.2. n = m = 2, J = K = 12, and the text prompts start at "a photo
    of a". A tower of fewer blocks gets prompts in all of them.
    """

    card = MethodCard(
        name="ivlp",
        title="IVLP",
        paper="arXiv:2210.03117",
        inserts=("text-input", "text-layers", "image-layers"),
        summary="deep prompts in both towers, without a link",
    )

    class Config(TwoTowersPrompted.Config):
        recipe: Recipe = Recipe(lr=3.5e-3, epochs=5, batch_size=4)
        text_length: NonNegativeInt = 2
        text_depth: PositiveInt = 12
        image_length: NonNegativeInt = 2
        image_depth: PositiveInt = 12

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        text_depth = min(config.text_depth, backbone.text.depth)
        text = self.draw_text_prompts(backbone, text_depth, config.text_length, rng)
        image = draw_image_prompts(backbone, config.image_depth, config.image_length, rng)
        return Module(trained={"text_prompts": text, "image_prompts": image})
