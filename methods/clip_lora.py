"""CLIP-LoRA: low-rank updates of the queries, keys and values of both towers.

The product of two thin matrices is added to the query, key and value matrices of every attention
layer, and is trained on the shots. The prompt is hand-written, and the rest of both towers is
frozen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    FEATURES,
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    require_blocks,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.layers import draw_linear
from ._shared.texts import Template
from ._shared.towers import require_weight

PROJECTIONS = ("q", "k", "v")

Draw = Callable[[tuple[int, ...], torch.device], Tensor]
"""Draws a dropout mask of a shape on a device: zeros, and a number that keeps the mean."""


class CLIPLoRA(TrainedMethod):
    """W x becomes W x + (α/√r) B A dropout(x), for q, k and v in every block of both towers.

    Zanella and Ben Ayed, *Low-Rank Few-Shot Adaptation of Vision-Language Models*, section 4,
    and the authors' code. A, ``[r, d]``, is drawn from U(±1/√d), and B, ``[d, r]``, starts at
    zero; r = 2, α = 1, dropout 0.25. Blocks are counted from the first, so a deeper tower keeps
    its last ones as they are.

    In detail: with ``encoder`` only one tower is changed. In the text tower all tokens and
    classes share one dropout mask of a projection, a mask of A's columns. So the exact
    shared-prefix encoder can be used. In the image tower every token has its own.
    """

    card = MethodCard(
        name="clip_lora",
        title="CLIP-LoRA",
        paper="arXiv:2405.18541",
        inserts=("text-layers", "image-layers"),
        summary="low-rank updates of q, k and v in both towers",
        zero_shot_at={"*_b": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=2e-4,
            weight_decay=1e-2,
            batch_size=32,
            warmup_epochs=0,
            schedule="cosine-step",
        )
        encoder: Literal["text", "image", "both"] = "both"
        rank: PositiveInt = 2
        alpha: PositiveFloat = 1.0
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25
        steps_per_shot: PositiveInt = 500
        template: Template | None = None

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return FEATURES if self.config.encoder == "text" else ImageInput("hidden", block=0)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        trained = {}
        for kind, tower in (("text", backbone.text), ("image", backbone.image)):
            if self.config.encoder in (kind, "both"):
                shape = (tower.depth, len(PROJECTIONS), self.config.rank, tower.width)
                a = draw_linear(shape, tower.width, rng)
                trained[f"{kind}_a"] = a
                trained[f"{kind}_b"] = torch.zeros_like(a.mT)
        return Module(trained).to(backbone.device)

    def epochs(self, shots: int, per_epoch: int) -> int:
        return math.ceil(self.config.steps_per_shot * shots / per_epoch)

    def loss(self, classifier: LowRankClassifier, batch: Batch) -> Tensor:
        if batch.rng is not None and self.config.dropout > 0:
            # A step draws as many numbers as there are activations, so they are drawn on the
            # device.
            seed = int(torch.randint(2**62, (), generator=batch.rng))
            generator = torch.Generator(batch.targets.device).manual_seed(seed)
            draw = partial(draw_mask, rate=self.config.dropout, generator=generator)
            classifier = dataclasses.replace(classifier, draw=draw, rng=generator)
        return super().loss(classifier, batch)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> LowRankClassifier:
        for kind, tower in (("text", backbone.text), ("image", backbone.image)):
            name = f"{kind}_a"
            if name in module.trained:
                a = require_shape(module, name, tower.width, f"{kind} tokens of width")
                require_blocks(len(a), tower.depth, kind)
        if "text_a" in module.trained:
            for block in range(len(module["text_a"])):
                require_weight(backbone, attention(block))
        scale = self.config.alpha / math.sqrt(self.config.rank)
        texts = labels.fill(self.config.template)
        return LowRankClassifier(module, backbone, texts, scale)


@dataclass(frozen=True)
class LowRankClassifier:
    """A cosine classifier behind towers with low-rank updates.

    Attributes:
        module: for each tower that is changed, ``a``, ``[blocks, 3, r, d]``, and ``b``,
            ``[blocks, 3, d, r]``; q, k and v in this order.
        prompts: the text of each class.
        scale: the factor α/√r.
        draw: draws dropout masks, those of the text first; None for no dropout.
        rng: the generator that ``draw`` uses.
    """

    module: Module
    backbone: Backbone
    prompts: tuple[str, ...]
    scale: float
    draw: Draw | None = None
    rng: torch.Generator | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        compare = CosineClassifier(self.texts, self.backbone.logit_scale)
        return compare(self.encode_images(inputs))

    @cached_property
    def texts(self) -> Tensor:
        """Text features, not normalised, ``[C, e]``."""
        if "text_a" not in self.module.trained:
            return self.backbone.text_features(self.prompts)
        a = self.module["text_a"]
        b = self.module["text_b"]
        if self.draw is not None:
            # One mask for each projection: a row over the columns of A.
            a = a * self.draw((*a.shape[:2], 1, a.shape[-1]), a.device)
        updates = self.scale * (b @ a).flatten(1, 2)
        frozen = self.backbone.text.weights
        weights = {}
        for block, update in enumerate(updates):
            name = attention(block)
            weights[name] = frozen[name] + update
        return self.backbone.encode_prompts(self.backbone.text_prompts(self.prompts), weights)

    def encode_images(self, inputs: Tensor) -> Tensor:
        """Return image features, not normalised, ``[batch, e]``."""
        if "image_a" not in self.module.trained:
            return inputs

        def update(y: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
            if self.draw is not None:
                x = x * self.draw(tuple(x.shape), x.device)
            return y + self.scale * x @ a.T @ b.T

        factors = zip(self.module["image_a"], self.module["image_b"], strict=True)
        updates = {}
        for block, (block_a, block_b) in enumerate(factors):
            for part, a, b in zip(PROJECTIONS, block_a, block_b, strict=True):
                updates[block, part] = partial(update, a=a, b=b)
        tower = self.backbone.image
        return tower.encode(inputs, block_updates=updates, rng=self.rng)  # type: ignore[arg-type]


def draw_mask(
    shape: tuple[int, ...], device: torch.device, rate: float, generator: torch.Generator
) -> Tensor:
    """Draw a mask that is 0 with probability ``rate``, and 1 / (1 − rate) elsewhere."""
    return (torch.rand(shape, device=device, generator=generator) >= rate) / (1 - rate)


def attention(block: int) -> str:
    """Return open_clip's name of the matrix that holds q, k and v of a block, ``[3d, d]``."""
    return f"transformer.resblocks.{block}.attn.in_proj_weight"
