"""Methods of 2022 to 2025 inside the towers, and their teachers."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from formulas import Formula, Tensors, cosine_logits, photo_texts
from open_clip_reference import text_tower
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module, NotTransferable
from compatbench.methods.mma import MMA


def blocks_of(backbone: Backbone) -> dict[str, Any]:
    """The blocks of the text tower and of the image tower."""
    visual: Any = backbone.model.visual
    image = visual.transformer.resblocks if hasattr(visual, "transformer") else visual.trunk.blocks
    return {"text": text_tower(backbone).transformer.resblocks, "image": image}


def add_adapter(
    block: Any, given: tuple[Tensor], output: Tensor, own: Tensors, kind: str, i: int, scale: float
) -> Tensor:
    """B(x) + κ (U ReLU(S ReLU(D LN(x) + ·) + ·) + ·)."""

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ own[name][i].T + own[f"{name}_bias"][i]

    def relu(x: Tensor) -> Tensor:
        return x * (x > 0)  # with a gradient of 0 at 0, where biases start

    norm: nn.Module = block.ln_1 if hasattr(block, "ln_1") else block.norm1
    hidden = relu(layer("shared", relu(layer(f"{kind}_down", norm(given[0])))))
    return output + scale * layer(f"{kind}_up", hidden)


def mma_logits(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, scale: float
) -> Tensor:
    """Adapters in the last two thirds of the blocks of the smaller tower, and their counterparts."""
    towers = blocks_of(backbone)
    depth = min(map(len, towers.values()))
    hooks = [
        block.register_forward_hook(partial(add_adapter, own=own, kind=kind, i=i, scale=scale))
        for kind, blocks in towers.items()
        for i, block in enumerate(blocks[depth // 3 : depth])
    ]
    try:
        features = backbone.model.visual(images)  # type: ignore[operator]
        return cosine_logits(backbone, photo_texts(backbone, labels), features)
    finally:
        for hook in hooks:
            hook.remove()


def raised(name: str, x: Tensor, gradient: Tensor) -> Tensor:
    """A first step at a rate of 0.1, of the gradient as if κ = 0.05 were 1."""
    return x - 0.1 * (gradient / 0.05 + 5e-4 * x)


STEPS = {
    "mma": Formula(
        MMA,
        partial(mma_logits, scale=0.05),
        update=raised,
        settings={"scale": 0.05, "width": 4},
        exact=1e-9,
    ),
}

FORMULAS = STEPS | {"mma-published": Formula(MMA, partial(mma_logits, scale=1e-3), exact=1e-9)}


def test_adapters_for_more_blocks_than_a_tower_has_are_refused(
    clip: Backbone, eva64: Backbone, data: FewShotData
) -> None:
    """Of three text blocks and two or six image blocks, two of each have adapters."""
    module = MMA().init(clip, data, torch.Generator())
    assert module["shared"].shape == (2, 32, 32)
    assert [MMA().image_input(one).block for one in (clip, eva64)] == [0, 1]
    deeper = Module({name: torch.cat([x, x]) for name, x in module.trained.items()})
    with pytest.raises(NotTransferable, match="a number of adapted blocks of 4, not 2"):
        MMA().attach(deeper, clip, data.labels)
