"""VPT-deep: learned tokens among those of the image, renewed in every block.

Each of the first blocks of the image tower has its own learned tokens. The class weights are the
zero-shot text features.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt, PositiveInt

from compatbench.method import Backbone, FewShotData, Labels, MethodCard, Module
from compatbench.method.trained import Recipe

from ._shared.texts import Template
from ._shared.towers import ImagePrompted, PromptedClassifier, draw_image_prompts


class VPTDeep(ImagePrompted):
    """n tokens P_i, learned for each of the first J blocks, and CLIP's zero-shot classifier.

    Jia et al., *Visual Prompt Tuning*, section 3.2: [x_i, _] = B_i([x_{i-1}, P_{i-1}]), and z_c
    = s · cos(f, t_c), where t_c are the features of "a photo of a {}." for every task (with
    ``template: null``, of the task's first template). P is drawn from N(0, 0.02²). n = 8 and J
    = 12, as Khattak et al. (arXiv:2210.03117) train it for CLIP. A tower of fewer than J blocks
    gets prompts in all of them.
    """

    card = MethodCard(
        name="vpt_deep",
        title="VPT-deep",
        paper="arXiv:2203.12119",
        inserts="image-layers",
        summary="learned image tokens, renewed in every block",
    )

    class Config(ImagePrompted.Config):
        recipe: Recipe = Recipe(lr=2.5e-3, epochs=5, batch_size=4)
        length: NonNegativeInt = 8
        depth: PositiveInt = 12
        template: Template | None = "a photo of a {}."

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        prompts = draw_image_prompts(backbone, self.config.depth, self.config.length, rng)
        return Module(trained={"image_prompts": prompts})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PromptedClassifier:
        text = backbone.zero_shot(labels, self.config.template)
        return PromptedClassifier(text, backbone, self.insert(module, backbone))
