"""Transfers of weight differences: rotated by activations or gradients, or without the shift."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from random_matrices import draw
from tiny_models import tiny_clip, tiny_eva_clip
from torch import Tensor
from unit_orders import reorder

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.extras.check.method_under_test import LABELS
from compatbench.extras.check.models import wrap
from compatbench.method import Module
from compatbench.method.registry import builtin_methods, builtin_transfers
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled

LORA: Any = builtin_methods().get("clip_lora")
CLIP = wrap(tiny_clip().double(), "clip")
EVA = wrap(tiny_eva_clip().double(), "eva")
PIXELS = 0.3 * draw(6, 3, 24, 24, seed=3)


def low_rank(backbone: Backbone, *kinds: str) -> Module:
    found = {}
    for seed, kind in enumerate(kinds):
        tower: Any = getattr(backbone, kind)
        depth = tower.depth
        width = tower.width
        found[f"{kind}_a"] = 0.3 * draw(depth, 3, 2, width, seed=seed)
        found[f"{kind}_b"] = 0.3 * draw(depth, 3, width, 2, seed=9 + seed)
    return Module(found)


@pytest.fixture(scope="module")
def shuffled() -> Backbone:
    """The same functions as ``CLIP``, with the units of both towers in another order."""
    model: Any = copy.deepcopy(CLIP.model)
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
                if name.startswith("pos"):
                    name = name.removesuffix(".weight")
                tensor.data = reorder(name, tensor.data, order)
    other = wrap(model, "shuffled")
    assert torch.allclose(other.zero_shot(LABELS), CLIP.zero_shot(LABELS), atol=1e-9)
    assert torch.allclose(other.encode_images(PIXELS), CLIP.encode_images(PIXELS), atol=1e-9)
    return other


def carry(name: str, module: Module, new: Backbone, old: Backbone = CLIP) -> Module:
    """Return the module for another model; a transfer that needs images gets forty."""
    transfer: Any = builtin_transfers().get(name)()
    method = LORA()
    given: dict[str, Any] = {"source": old}
    if "unlabelled" in transfer.card.access:
        images = 0.3 * draw(40, 3, 24, 24, seed=8)
        wanted = method.image_input(old)
        old_features = old.encode_images(images).detach()
        new_features = new.encode_images(images).detach()
        old_inputs = old.encode_images(images, wanted)
        new_inputs = new.encode_images(images, wanted)
        answers = OldAnswers(draw(40, 5, seed=2), torch.zeros(40, 5))
        given["unlabelled"] = Unlabelled(
            old_features, new_features, new_inputs, answers, 1.0, old_inputs
        )
    with torch.no_grad():
        return transfer.carry(method, module, new, LABELS, TransferData(transfer, **given))


@pytest.mark.parametrize("name", ["theseus", "bico"])
def test_module_carried_to_a_shuffled_copy_computes_the_same(shuffled: Backbone, name: str) -> None:
    """Activations and gradients are the same in another order, and they span the space."""
    method = LORA()
    module = low_rank(CLIP, "image")

    @torch.no_grad()
    def logits(module: Module, backbone: Backbone) -> Tensor:
        inputs = backbone.encode_images(PIXELS, method.image_input(backbone))
        return method.attach(module, backbone, LABELS)(inputs)

    expected = logits(module, CLIP)
    found = logits(carry(name, module, shuffled), shuffled)
    assert torch.allclose(found, expected, atol=1e-6)
    # The module that was not carried computes something else there.
    assert float((logits(module, shuffled) - expected).abs().max()) > 1e-3


def test_weight_transfers_refuse_other_towers_and_modules(wider_text: Backbone) -> None:
    for name, part, target, why in (
        ("orthogonal-shift", "ln_final.bias", EVA, "is no low-rank update"),
        ("orthogonal-shift", "text", wider_text, "text tower of .* has no such weights"),
        ("theseus", "text.bias", CLIP, r"'text\.bias' is no low-rank update"),
    ):
        module = low_rank(CLIP, part) if part == "text" else Module({part: 0.3 * draw(32)})
        with pytest.raises(NotTransferable, match=why):
            carry(name, module, target)


def test_theseus_rotates_text_updates_by_the_inputs_and_outputs_of_projections(
    shuffled: Backbone,
) -> None:
    """In the first block, the inputs are the embeddings of the prompts' different tokens."""
    module = low_rank(CLIP, "text")
    carried = carry("theseus", module, shuffled)
    given = []
    made = []
    for backbone in (CLIP, shuffled):
        model: Any = backbone.model
        ids = backbone.tokenizer([LABELS.templates[0].format(name) for name in LABELS.names])
        x = model.token_embedding(ids) + model.positional_embedding
        ends = ids.argmax(-1)
        shared = 0
        while len(ids[:, shared].unique()) == 1:
            shared += 1
        rows = [x[0, :shared]]
        for row, end in zip(x, ends, strict=True):
            rows.append(row[shared : end + 1])
        block = model.transformer.resblocks[0]
        normed = block.ln_1(torch.cat(rows))
        given.append(normed)
        made.append((normed @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, -1))
    for i in range(3):
        turns = []
        for x, y in (given, (made[0][i], made[1][i])):
            u, _, v = torch.linalg.svd(x.T @ y)
            turns.append(u @ v)
        update = turns[1].T @ module["text_b"][0, i] @ module["text_a"][0, i] @ turns[0]
        found = carried["text_b"][0, i] @ carried["text_a"][0, i]
        # Five prompts do not span the space: other directions are undetermined.
        left = made[1][i].detach()
        right = given[1].detach().T
        assert torch.allclose(left @ found @ right, left @ update @ right, atol=1e-6)


def test_orthogonal_shift_removes_the_difference_between_the_models(shuffled: Backbone) -> None:
    module = low_rank(CLIP, "text", "image")
    carried = carry("orthogonal-shift", module, shuffled)
    for kind in ("text", "image"):
        old_tower = getattr(CLIP, kind)
        new_tower = getattr(shuffled, kind)
        for block in range(old_tower.depth):
            name = f"transformer.resblocks.{block}.attn.in_proj_weight"
            shift = (new_tower.weights[name] - old_tower.weights[name]).flatten()
            old = (module[f"{kind}_b"][block] @ module[f"{kind}_a"][block]).flatten()
            new = (carried[f"{kind}_b"][block] @ carried[f"{kind}_a"][block]).flatten()
            expected = old - old.dot(shift) / shift.dot(shift) * shift
            assert torch.allclose(new, expected, atol=1e-9)
            assert abs(float(new.dot(shift))) < 1e-6 < abs(float(old.dot(shift)))
