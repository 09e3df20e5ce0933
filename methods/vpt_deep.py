"""VPT-deep: learned tokens among those of the image, renewed in every block."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
)
from compatbench.method.optim import Recipe
from compatbench.method.trained import TrainedMethod


class ImagePrompted(TrainedMethod):
    """A method that inserts learned tokens behind the image's own, from the first block on.

    CLIP normalises what enters its first block, EVA-CLIP does not. With the ``entry``
    ``raw``, the first prompts are carried as they were learned, and a tower does with them
    as it does; with ``post-ln``, as the source's norm left them, and they enter the first
    block of any tower like that. Prompts have no position, neither added nor rotated (RoPE).
    """

    class Config(TrainedMethod.Config):
        entry: Literal["raw", "post-ln"] = "raw"

    config: Config

    @abstractmethod
    def image_prompts(self, module: Module) -> Tensor:
        """Prompts of the first blocks of the image tower, ``[J, n, d]``."""

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=0)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().fit(backbone, data, rng)
        if self.config.entry == "raw":
            return module
        entered = backbone.image.enter(self.image_prompts(module)[0])
        return Module(module.trained, module.stored | {"entered": entered}).detach()

    def insert(self, module: Module, backbone: Backbone) -> list[Tensor]:
        """The prompts as they enter the blocks of a backbone, each ``[n, d]``.

        Raises:
            NotTransferable: tokens of another width, or too few blocks.
        """
        prompts = self.image_prompts(module).unbind()
        backbone.image.check_prompts(prompts)
        entered = module.stored.get("entered")
        first = backbone.image.enter(prompts[0]) if entered is None else entered
        return [first, *prompts[1:]]


class PromptedClassifier(CosineClassifier):
    """A cosine classifier behind an image tower with prompts.

    Args:
        weights: class weights, ``[C, e]``.
        prompts: of each of the first blocks, ``[n, d]``.
    """

    def __init__(self, weights: Tensor, backbone: Backbone, prompts: Sequence[Tensor]) -> None:
        super().__init__(weights, backbone.logit_scale)
        self._tower = backbone.image
        self._prompts = prompts

    def encode(self, tokens: Tensor) -> Tensor:
        """Image features, not normalised, ``[batch, e]`` of tokens ``[batch, tokens, d]``."""
        return self._tower.encode(tokens, prompts=self._prompts)

    def classify(self, features: Tensor) -> Tensor:
        """Logits ``[batch, classes]`` of image features."""
        return super().__call__(features)

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.classify(self.encode(tokens))


class VPTDeep(ImagePrompted):
    """n tokens P_i, learned for each of the first J blocks, and CLIP's zero-shot classifier.

    Jia et al., *Visual Prompt Tuning*, section 3.2: [x_i, _] = B_i([x_{i-1}, P_{i-1}]), and
    z_c = s · cos(f, t_c), where t_c are the features of "a photo of a {}." whatever the task
    (with ``template: null``, of the task's first template). P is drawn from N(0, 0.02²).
    Recipe, as Khattak et al. (arXiv:2210.03117) train it for CLIP: n = 8, J = 12, SGD at
    2.5e-3, batch 4, 5 epochs. A tower of fewer than J blocks gets prompts in all of them.
    """

    card = MethodCard(
        name="vpt_deep",
        title="VPT-deep",
        paper="arXiv:2203.12119",
        inserts="image-layers",
        summary="learns extra image tokens, renewed in every block",
    )

    class Config(ImagePrompted.Config):
        recipe: Recipe = Recipe(lr=2.5e-3, epochs=5, batch_size=4)
        length: NonNegativeInt = 8
        depth: PositiveInt = 12
        template: str | None = "a photo of a {}."

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        prompts = draw_image_prompts(backbone, self.config.depth, self.config.length, rng)
        return Module(trained={"image_prompts": prompts})

    def image_prompts(self, module: Module) -> Tensor:
        return module["image_prompts"]

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PromptedClassifier:
        text = backbone.zero_shot(labels, self.config.template)
        return PromptedClassifier(text, backbone, self.insert(module, backbone))


def draw_image_prompts(backbone: Backbone, depth: int, length: int, rng: torch.Generator) -> Tensor:
    """Prompts from N(0, 0.02²) for ``depth`` blocks, or as many as there are, ``[J, n, d]``."""
    shape = min(depth, backbone.image.depth), length, backbone.image.width
    return (torch.randn(*shape, generator=rng) * 0.02).to(backbone.device)
