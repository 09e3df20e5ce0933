"""IVLP: deep prompts in both towers, independent of each other."""

from __future__ import annotations

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.method import (
    Backbone,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_blocks,
    require_shape,
)
from compatbench.method.optim import Recipe

from .vpt_deep import ImagePrompted, PromptedClassifier, draw_image_prompts


class TwoTowersPrompted(ImagePrompted):
    """A method with prompts in the first blocks of both towers.

    The prompt of class c is [SOS, P_0, w, E(name_c), E("."), EOT], where P_0 starts at the
    first n of ``context_words`` and w are those that are left; before each of the next
    blocks, the rows of P_0 are replaced by prompts of that block.
    """

    class Config(ImagePrompted.Config):
        context_words: str = "a photo of a"

    config: Config

    def draw_text_prompts(
        self, backbone: Backbone, depth: int, length: int, rng: torch.Generator
    ) -> Tensor:
        """Words for the first block, and draws from N(0, 0.02²) for the others, ``[J, n, D]``.

        Raises:
            CompatbenchError: there are fewer words than prompts.
        """
        words = backbone.embed_text(self.config.context_words)
        if len(words) < length:
            raise CompatbenchError(
                f"method '{self.card.name}': context_words '{self.config.context_words}' are "
                f"{len(words)} tokens, too few for prompts of {length}"
            )
        deep = torch.randn(depth - 1, length, backbone.token_width, generator=rng) * 0.02
        return torch.cat([words[None, :length], deep.to(words)])

    def text_features(self, module: Module, backbone: Backbone, labels: Labels) -> Tensor:
        """Class features of the prompted text tower, not normalised, ``[C, e]``.

        Raises:
            NotTransferable: tokens of another width, or too few blocks.
        """
        width, depth = backbone.token_width, backbone.text.depth
        first, *deep = require_shape(module, "text_prompts", width, "text tokens of width")
        require_blocks(1 + len(deep), depth, "text")
        words = backbone.embed_text(self.config.context_words)[len(first) :]
        context = torch.cat([first, words])
        return backbone.encode_prompts(backbone.prompts(labels, context, deep))

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PromptedClassifier:
        text = self.text_features(module, backbone, labels)
        return PromptedClassifier(text, backbone, self.insert(module, backbone))


class IVLP(TwoTowersPrompted):
    """m learned tokens in the first K blocks of the text tower, n in the first J of the image's.

    Independent vision-language prompting, the baseline of Khattak et al., *MaPLe:
    Multi-modal Prompt Learning*, section 4.2. Recipe: n = m = 2, J = K = 12, "a photo of
    a", SGD at 3.5e-3, batch 4, 5 epochs. A tower of fewer blocks gets prompts in all of
    them.
    """

    card = MethodCard(
        name="ivlp",
        title="IVLP",
        paper="arXiv:2210.03117",
        inserts=("text-input", "text-layers", "image-layers"),
        summary="deep prompts in both towers, independent of each other",
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

    def image_prompts(self, module: Module) -> Tensor:
        return module["image_prompts"]
