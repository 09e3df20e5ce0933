"""Both towers with deep prompts, through the model's blocks over all tokens: no shortcut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip_reference import encode_texts
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.data.labels import Labels
from compatbench.method import FeatureSet, FewShotData, ImageInput

HIDDEN = ImageInput("hidden")


def run_image_tower(visual: Any, images: Tensor, prompts: Sequence[Tensor]) -> Tensor:
    """Return features with prompts ``[n, d]``: appended to the first block, replaced in the next.

    Prompts pass the norm before the first block with the image's tokens. Their rotary angle is 0.
    """
    clip = hasattr(visual, "class_embedding")
    if clip:
        x = visual.conv1(images).flatten(2).mT
        if visual.class_embedding is not None:
            x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + visual.positional_embedding
        norm = visual.ln_pre
        blocks = visual.transformer.resblocks
        rope = None
    else:
        x = visual.trunk._pos_embed(visual.trunk.patch_embed(images))
        rope = None
        if isinstance(x, tuple):
            x, rope = x
        norm = visual.trunk.norm_pre
        blocks = visual.trunk.blocks
    own = x.shape[1]
    for i, block in enumerate(blocks):
        if i < len(prompts):
            x = torch.cat([x[:, :own], prompts[i].expand(len(x), -1, -1)], dim=1)
        if i == 0:
            x = norm(x)
        if rope is None:
            x = block(x)
            continue
        still = torch.zeros(*rope.shape[:-2], x.shape[1] - own, rope.shape[-1]).to(x)
        still[..., rope.shape[-1] // 2 :] = 1  # sine 0, cosine 1
        x = block(x, rope=torch.cat([rope, still], dim=-2))
    x = x[:, :own]
    if clip:
        pooled = visual._pool(x)[0]
        if visual.proj is not None:
            pooled = pooled @ visual.proj
        return pooled
    return visual.head(visual.trunk.forward_head(visual.trunk.norm(x)))


def run_text_tower(
    backbone: Backbone, names: Sequence[str], words: str, prompts: Sequence[Tensor]
) -> Tensor:
    """Return features of texts with the first words replaced by prompts in each block."""
    texts = [f"{words} {name}." for name in names]
    return encode_texts(backbone, texts, prompts[0], dict(enumerate(prompts[1:], start=1)))


def draw_images(backbone: Backbone, count: int, seed: int = 0) -> Tensor:
    """Return random images of a backbone's size, ``[count, 3, H, W]``."""
    side = backbone.preprocess_settings["size"]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, side, side, generator=generator).to(backbone.dtype)


def few_shots(
    backbone: Backbone, labels: Labels, wanted: ImageInput = HIDDEN
) -> tuple[FewShotData, list[Tensor]]:
    """Return two shots of random images as input of a method, and the images, in two views."""
    images = [draw_images(backbone, 2 * len(labels), seed) for seed in range(2)]
    features = torch.stack([backbone.encode_images(view) for view in images])
    tokens = [backbone.encode_images(view, wanted) for view in images]
    targets = torch.arange(len(labels)).repeat_interleave(2)
    train = FeatureSet(features[0], features, targets, tokens)
    empty = FeatureSet(features[0, :0], features[:1, :0], targets[:0], [tokens[0][:0]])
    return FewShotData(labels, 2, train, empty), images
