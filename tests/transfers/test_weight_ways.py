"""Transfers of weight differences: permuted to the target's units, or put into its subspaces."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from random_matrices import draw
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.extras.check.models import wrap
from compatbench.method import Module
from compatbench.method.registry import builtin_methods
from compatbench.transfers.subspace import carry_projected, leading_subspaces
from compatbench.transfers.transfusion import (
    carry_permuted,
    match_towers,
    permute,
    split,
)

LORA = builtin_methods().get("clip_lora")


def low_rank(backbone: Backbone, *kinds: str) -> Module:
    found = {}
    for seed, kind in enumerate(kinds):
        tower: Any = getattr(backbone, kind)
        depth, width = tower.depth, tower.width
        found[f"{kind}_a"] = 0.3 * draw(depth, 3, 2, width, seed=seed)
        found[f"{kind}_b"] = 0.3 * draw(depth, 3, width, 2, seed=9 + seed)
    return Module(found)


@pytest.fixture(scope="module")
def shuffled(clip64: Backbone, labels: Labels, pixels: Tensor) -> Backbone:
    """The same functions as ``clip64``, with the units of both towers in another order."""
    model: Any = copy.deepcopy(clip64.model)
    generator = torch.Generator().manual_seed(5)

    def shuffle(size: int) -> Tensor:
        return torch.randperm(size, generator=generator)

    def channels(heads: Tensor) -> Tensor:
        return torch.cat([16 * head + shuffle(16) for head in heads])

    for tower, depth in ((model, 3), (model.visual, 2)):
        order = {"stream": shuffle(32)}
        for block in range(depth):
            heads = shuffle(2)
            order |= {f"{block}.qk": channels(heads), f"{block}.v": channels(heads)}
            order[f"{block}.mlp"] = shuffle(128)
        for name, tensor in tower.named_parameters():
            if not name.startswith(("visual.", "logit_scale")):
                name = name.replace("token_embedding", "positional_embedding")  # both are rows
                name = re.sub(r"\.weight$", "", name) if name.startswith("pos") else name
                parts = [permute(n, t, order) for n, t in split({name: tensor.data}).items()]
                tensor.data = torch.cat(parts)
    other = wrap(model, "shuffled")
    for encode in (lambda each: each.zero_shot(labels), lambda each: each.encode_images(pixels)):
        assert torch.allclose(encode(other), encode(clip64), atol=1e-9)
    return other


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return 0.3 * draw(6, 3, 24, 24, seed=3)


def logits(method: Any, module: Module, backbone: Backbone, labels: Labels, x: Tensor) -> Tensor:
    wanted = method.image_input(backbone)
    return method.attach(module, backbone, labels)(backbone.encode_images(x, wanted)).detach()


@pytest.mark.parametrize("name", ["clip_lora", "bitfit"])
def test_on_a_shuffled_copy_the_permuted_module_is_the_same_function(
    name: str, clip64: Backbone, shuffled: Backbone, labels: Labels, pixels: Tensor
) -> None:
    method = builtin_methods().get(name)()
    if name == "clip_lora":
        module = low_rank(clip64, "text", "image")
    else:
        biases = {n: t for n, t in clip64.text.weights.items() if n.endswith("bias")}
        module = Module(
            {n: 0.3 * draw(*t.shape, seed=i) for i, (n, t) in enumerate(biases.items())}
        )
    expected = logits(method, module, clip64, labels, pixels)
    carried = carry_permuted(module, clip64, shuffled)
    assert torch.allclose(logits(method, carried, shuffled, labels, pixels), expected, atol=1e-9)
    # As it was, it is another function there.
    assert float((logits(method, module, shuffled, labels, pixels) - expected).abs().max()) > 1e-3


def test_units_that_match_as_they_are_stay(clip64: Backbone) -> None:
    for kind in ("text", "image"):
        for units in match_towers(clip64, clip64, kind).values():
            assert torch.equal(units, torch.arange(len(units)))


def test_towers_of_another_kind_are_refused(
    clip: Backbone, eva: Backbone, wider_text: Backbone
) -> None:
    with pytest.raises(NotTransferable, match="image towers are not built alike"):
        carry_permuted(low_rank(clip, "image"), clip, eva)
    with pytest.raises(NotTransferable, match="text towers are not built alike"):
        carry_permuted(low_rank(clip, "text"), clip, wider_text)
    with pytest.raises(NotTransferable, match="'context' is no difference"):
        carry_permuted(Module({"context": 0.3 * draw(4, 32)}), clip, eva)


def test_a_subspace_projects_each_update_from_both_sides(clip64: Backbone, eva64: Backbone) -> None:
    module = low_rank(clip64, "text")
    found = carry_projected(module, eva64, share=0.5)
    for i in range(clip64.text.depth):
        fused = eva64.text.weights[f"transformer.resblocks.{i}.attn.in_proj_weight"]
        for j, weight in enumerate(fused.chunk(3)):
            u, s, v = torch.linalg.svd(weight)
            rank = next(r for r in range(1, len(s) + 1) if s[:r].norm() ** 2 >= 0.5 * s.norm() ** 2)
            left, right = u[:, :rank] @ u[:, :rank].T, v[:rank].T @ v[:rank]
            update = module["text_b"][i, j] @ module["text_a"][i, j]
            made = found["text_b"][i, j] @ found["text_a"][i, j]
            assert torch.allclose(made, left @ update @ right, atol=1e-9)
            assert rank < len(s)


def test_the_whole_space_leaves_an_update_as_it_is(eva64: Backbone) -> None:
    module = low_rank(eva64, "text", "image")
    for name, tensor in carry_projected(module, eva64, share=1.0).trained.items():
        assert torch.allclose(tensor, module[name], atol=1e-9)
    assert leading_subspaces(torch.eye(4), 0.9)[0].shape == (4, 4)
    with pytest.raises(NotTransferable, match="is no low-rank update"):
        carry_projected(Module({"ln_final.bias": 0.3 * draw(32)}), eva64)
