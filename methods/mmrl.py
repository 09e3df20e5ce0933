"""MMRL: tokens of a shared space in the later blocks of both towers, and a second image feature.

Rows of one learned space are projected into both towers, as additional tokens of their later
blocks. The image tower's output at these tokens is a second feature, which classifies together
with the usual one.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.backbone.text.prompts import Inserted
from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.layers import draw_linear
from ._shared.towers import late_blocks

# The first block of twelve that has tokens, counted from 0.
FIRST = 5


class MMRL(TrainedMethod):
    """n rows R of a shared space give both towers tokens from block 6 of 12 on.

    Guo and Gu, *MMRL: Multi-Modal Representation Learning for Vision-Language Models*, section
    3.2. The tokens R A_l + a_l in block l of the text tower, and R B_l + b_l in block l of the
    image tower, follow the first token. They are inserted before block 6 and renewed before
    each of the next, without positions. With r the mean of the image tower's last n rows of
    these tokens, behind the last norm, and P_r their projection,

        z_c = s · cos(f, t_c),   z'_c = s · cos(r P_r, t_c),

    and the answer is α z + (1 − α) z'. The loss is α CE(z) + (1 − α) CE(z') + λ [1 − mean
    cos(f, f⁰) + 1 − mean cos(t, t⁰)], with f⁰ and t⁰ of the frozen model.

    In detail: R is drawn from N(0, 0.02²), P_r from N(0, 1/d). n = 5, R has width 512, α = 0.7,
    λ = 0.5; the authors choose λ for each task. Towers of fewer blocks have tokens in the same
    share of them: from block 3 of 6 on.
    """

    card = MethodCard(
        name="mmrl",
        title="MMRL",
        paper="arXiv:2503.08497",
        inserts=("text-layers", "image-layers", "feature"),
        summary="tokens of a shared space in late blocks of both towers",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(optimizer="adamw", lr=1e-3, epochs=50)
        length: PositiveInt = 5
        width: PositiveInt = 512
        share: Annotated[float, Field(ge=0, le=1)] = 0.7
        weight: NonNegativeFloat = 0.5

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=late_blocks(backbone, FIRST).start)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        count = len(late_blocks(backbone, FIRST))
        width = self.config.width
        drawn = {"tokens": torch.randn(self.config.length, width, generator=rng) * 0.02}
        for kind, size in (("text", backbone.text.width), ("image", backbone.image.width)):
            drawn[kind] = draw_linear((count, size, width), width, rng)
            drawn[f"{kind}_bias"] = draw_linear((count, 1, size), width, rng)
        image_width = backbone.image.width
        projection = torch.randn(image_width, backbone.embed_dim, generator=rng)
        drawn["projection"] = projection / math.sqrt(image_width)
        return Module(drawn).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> TwoAnswers:
        require_shape(module, "text", backbone.text.width, "text tokens of width", dim=1)
        require_shape(module, "image", backbone.image.width, "image tokens of width", dim=1)
        require_shape(module, "projection", backbone.embed_dim, "image features of size")
        blocks = late_blocks(backbone, FIRST)
        require_shape(module, "text", len(blocks), "a number of blocks with tokens of", dim=0)
        tokens = module["tokens"]
        text = tokens @ module["text"].mT + module["text_bias"]
        image = tokens @ module["image"].mT + module["image_bias"]
        prompts = backbone.text_prompts(labels.fill())
        inserted = Inserted(blocks.start, text.unbind())
        texts = backbone.encode_prompts(dataclasses.replace(prompts, inserted=inserted))
        return TwoAnswers(texts, backbone, image, module["projection"], self.config.share)

    def loss(self, classifier: TwoAnswers, batch: Batch) -> Tensor:
        share = self.config.share
        features, token_features = classifier.encode_both(batch.inputs)
        entropy = F.cross_entropy(classifier.classify(features), batch.targets)
        token_entropy = F.cross_entropy(classifier.classify(token_features), batch.targets)
        frozen = batch.backbone.zero_shot(batch.labels)
        distance = 2 - F.cosine_similarity(features, batch.features).mean()
        distance = distance - F.cosine_similarity(classifier.weights, frozen).mean()
        return share * entropy + (1 - share) * token_entropy + self.config.weight * distance


class TwoAnswers(CosineClassifier):
    """A classifier of image tokens ``[batch, tokens, d]`` by the class token and the learned ones.

    Args:
        texts: text features, ``[C, e]``.
        prompts: the learned tokens of each of the last blocks, ``[blocks, n, d]``.
        projection: P_r from the tokens' mean to the embedding space, ``[d, e]``.
        share: weight α of the class token's answer.
    """

    def __init__(
        self, texts: Tensor, backbone: Backbone, prompts: Tensor, projection: Tensor, share: float
    ) -> None:
        super().__init__(texts, backbone.logit_scale)
        self._tower = backbone.image
        self._block = late_blocks(backbone, FIRST).start
        self._prompts = prompts
        self._projection = projection
        self._share = share

    def encode_both(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return f and the learned tokens' r P_r, both ``[batch, e]``, not normalised."""
        prompts = self._prompts.unbind()
        pooled, rows = self._tower.encode_rows(tokens, block=self._block, prompts=prompts)
        count = len(prompts[0])
        mean = rows[:, -count:].mean(1)
        return self._tower.project(pooled), mean @ self._projection

    def __call__(self, tokens: Tensor) -> Tensor:
        features, token_features = self.encode_both(tokens)
        first = self.classify(features)
        second = self.classify(token_features)
        return self._share * first + (1 - self._share) * second
