"""HeBA: bottlenecks before attention, with convolutions for patches and dense layers for words.

Adapters in every block of both towers change what attention receives. Those of the image tower mix
each patch with its neighbours in the grid, those of the text tower treat each token alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.backbone import BlockUpdates
from compatbench.backbone.parts.blocks import PROJECTIONS
from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
    NotTransferable,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.layers import divide_gradient, draw_linear
from ._shared.texts import Templates, fill_templates, select_texts
from ._shared.towers import Tower

KERNEL = 3  # patches along each side of the convolution


class HeBA(TrainedMethod):
    """Attention of every block gets u + κ A(u), with A(u) = LN(u + U GELU(M D u)), instead of u.

    Islam, *HeBA: Heterogeneous Bottleneck Adapters for Robust Vision-Language Models*, section 3.
    u are the rows behind the block's first norm, D maps them to a quarter of their width and U
    back. In the text tower M is the identity. In the image tower it is a depth-wise 3 × 3
    convolution over the grid of patches, and the class token is not changed. κ = 0.025; in training
    each block has κ' = 2.25 κ in one of five steps. A step compares with the classes of its images
    and five times as many others, if the task has more classes than the batch images. Each class
    has one of the task's templates, drawn anew. The loss is cross-entropy, smoothed by 0.1. At
    test, t_c is the mean of the normalised features of all templates.

    Their adapters of the hidden layer of each MLP are left out: that of EVA-CLIP's image towers has
    a gate and another width, so a module with them could not be attached there.

    In detail: D and M are drawn from U(±1/√fan-in), U from N(0, 2/rows), and LN starts at 1 and 0,
    so A changes the features from the first step on. As in the authors' code, the gradients of
    the adapters are taken as if κ were 1. The gradient of u keeps its κ.
    """

    card = MethodCard(
        name="heba",
        title="HeBA (attention)",
        paper="arXiv:2603.16653",
        inserts=("text-layers", "image-layers"),
        summary="bottlenecks before attention, convolutional for images",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=7.5e-3, epochs=30, batch_size=16, warmup_epochs=0)
        reduction: PositiveInt = 4
        scale: PositiveFloat = 0.025
        fast_factor: PositiveFloat = 2.25
        slow_share: Annotated[float, Field(ge=0, le=1)] = 0.8
        negatives: NonNegativeInt = 5
        smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
        templates: Templates = "all"

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return ImageInput("hidden", block=0)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        trained = {}
        for name, tower in (("text", backbone.text), ("image", backbone.image)):
            count = tower.depth
            width = tower.width
            hidden = max(width // self.config.reduction, 1)
            trained[f"{name}_down"] = draw_linear((count, hidden, width), width, rng)
            if name == "image":
                shape = count, hidden, 1, KERNEL, KERNEL
                trained["image_mix"] = draw_linear(shape, KERNEL**2, rng)
            drawn = torch.randn(count, width, hidden, generator=rng)
            trained[f"{name}_up"] = drawn * math.sqrt(2 / width)
            trained[f"{name}_norm"] = torch.ones(count, width)
            trained[f"{name}_norm_bias"] = torch.zeros(count, width)
        return Module(trained).to(backbone.device)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        texts = fill_templates(data.labels, self.config.templates)
        templates = len(texts) // len(data.labels)
        prompts = backbone.text_prompts(texts)
        # The classes of a step are drawn on the CPU, so that no step waits for the device.
        targets = data.train.targets.cpu()

        def loss(module: Module, batch: Batch) -> Tensor:
            assert batch.rows is not None
            classes, places = self.draw_classes(targets[batch.rows], len(data.labels), rng)
            template = torch.randint(templates, (len(classes),), generator=rng)
            chosen = select_texts(prompts, template * len(data.labels) + classes)
            text_scales = self.draw_scales(backbone.text.depth, rng)
            updates = self.updates(module, backbone, "text", text_scales)
            text = backbone.encode_prompts(chosen, block_updates=updates)
            image_scales = self.draw_scales(backbone.image.depth, rng)
            updates = self.updates(module, backbone, "image", image_scales)
            features = backbone.image.encode(batch.inputs, block_updates=updates)
            logits = CosineClassifier(text, backbone.logit_scale)(features)
            places = places.to(logits.device, non_blocking=True)
            return F.cross_entropy(logits, places, label_smoothing=self.config.smoothing)

        return self.train(self.init(backbone, data, rng), loss, backbone, data, rng)

    def draw_classes(
        self, targets: Tensor, count: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the classes that a step compares with, and each target's place among them."""
        if count <= len(targets):
            return torch.arange(count), targets
        own, places = targets.unique(return_inverse=True)
        absent = torch.ones(count, dtype=torch.bool)
        absent[own] = False
        others = absent.nonzero()[:, 0]
        drawn = torch.randperm(len(others), generator=rng)[: self.config.negatives * len(own)]
        return torch.cat([own, others[drawn]]), places

    def draw_scales(self, blocks: int, rng: torch.Generator) -> list[float]:
        """Draw κ or κ' for each block."""
        fast = torch.rand(blocks, generator=rng) > self.config.slow_share
        factors = torch.where(fast, self.config.fast_factor, 1.0)
        return [self.config.scale * factor for factor in factors.tolist()]

    def updates(
        self, module: Module, backbone: Backbone, name: Tower, scales: Sequence[float]
    ) -> BlockUpdates:
        """Return updates of queries, keys and values, which are linear in what attention gets.

        Raises:
            NotTransferable: the tower has other sizes, or its tokens are no square grid behind a
                class token.
        """
        tower = backbone.text if name == "text" else backbone.image
        require_shape(module, f"{name}_down", tower.width, f"{name} tokens of width")
        require_shape(module, f"{name}_down", tower.depth, f"{name} towers of blocks", dim=0)
        side = 0
        if name == "image":
            side = math.isqrt(backbone.image.tokens - 1)
            if side**2 != backbone.image.tokens - 1:
                raise NotTransferable(
                    "the image tower's tokens are not a class token and a square grid of patches"
                )
        updates = {}
        for block, scale in enumerate(scales):
            weight = f"transformer.resblocks.{block}.attn.in_proj_weight"
            if weight not in tower.weights:
                raise NotTransferable(f"the backbone's {name} tower has no '{weight}'")
            own = {}
            for key, tensor in module.trained.items():
                if key.startswith(f"{name}_"):
                    part = key.removeprefix(f"{name}_")
                    own[part] = divide_gradient(tensor[block], scale)
            matrices = tower.weights[weight].chunk(3)
            for part, matrix in zip(PROJECTIONS, matrices, strict=True):
                updates[block, part] = partial(
                    change_projection, own=own, matrix=matrix, scale=scale, side=side
                )
        return updates

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        prompts = backbone.text_prompts(fill_templates(labels, self.config.templates))
        scales = [self.config.scale] * backbone.text.depth
        updates = self.updates(module, backbone, "text", scales)
        texts = F.normalize(backbone.encode_prompts(prompts, block_updates=updates), dim=-1)
        means = texts.unflatten(0, (-1, len(labels))).mean(0)
        compare = CosineClassifier(means, backbone.logit_scale)
        scales = [self.config.scale] * backbone.image.depth
        image_updates = self.updates(module, backbone, "image", scales)
        return lambda tokens: compare(backbone.image.encode(tokens, block_updates=image_updates))


def change_projection(
    output: Tensor, given: Tensor, own: dict[str, Tensor], matrix: Tensor, scale: float, side: int
) -> Tensor:
    """Return W (u + κ A(u)) + b, given W u + b and u; a ``side`` of 0 is for texts."""
    changed = adapt_patches(given, own, side) if side else adapt(given, own)
    return output + scale * changed @ matrix.to(output).T


def adapt(rows: Tensor, own: dict[str, Tensor]) -> Tensor:
    """Return LN(u + U GELU(D u)) of rows ``[..., d]``."""
    hidden = F.gelu(rows @ own["down"].T)
    return normalise(rows + hidden @ own["up"].T, own)


def adapt_patches(rows: Tensor, own: dict[str, Tensor], side: int) -> Tensor:
    """Return LN(u + U GELU(M D u)) of the patches of images, and 0 for their class tokens.

    Args:
        rows: class token and patches, row by row, ``[batch, 1 + side², d]``.
        own: the tensors of a block.
        side: patches along each side of the grid.
    """
    patches = rows[:, 1:]
    grid = (patches @ own["down"].T).unflatten(1, (side, side)).permute(0, 3, 1, 2)
    mixed = F.conv2d(grid, own["mix"], padding=KERNEL // 2, groups=grid.shape[1])
    hidden = F.gelu(mixed.flatten(2).mT)
    changed = normalise(patches + hidden @ own["up"].T, own)
    return F.pad(changed, (0, 0, 1, 0))


def normalise(rows: Tensor, own: dict[str, Tensor]) -> Tensor:
    return F.layer_norm(rows, rows.shape[-1:], own["norm"], own["norm_bias"])
