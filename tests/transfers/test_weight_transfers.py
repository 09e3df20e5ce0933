"""Transfers of weight differences: turned by activations or gradients, or without a shift."""

from __future__ import annotations

import copy
import re
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
CLIP, EVA = wrap(tiny_clip().double(), "clip"), wrap(tiny_eva_clip().double(), "eva")
PIXELS = 0.3 * draw(6, 3, 24, 24, seed=3)


def low_rank(backbone: Backbone, *kinds: str) -> Module:
    found = {}
    for seed, kind in enumerate(kinds):
        tower: Any = getattr(backbone, kind)
        depth, width = tower.depth, tower.width
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
                name = re.sub(r"\.weight$", "", name) if name.startswith("pos") else name
                tensor.data = reorder(name, tensor.data, order)
    other = wrap(model, "shuffled")
    for encode in (lambda each: each.zero_shot(LABELS), lambda each: each.encode_images(PIXELS)):
        assert torch.allclose(encode(other), encode(CLIP), atol=1e-9)
    return other


def carry(name: str, module: Module, new: Backbone, old: Backbone = CLIP) -> Module:
    """Return the module for another model, by a transfer with forty images if it needs some."""
    transfer: Any = builtin_transfers().get(name)()
    method = LORA()
    given: dict[str, Any] = {"source": old}
    if "unlabelled" in transfer.card.access:
        images, wanted = 0.3 * draw(40, 3, 24, 24, seed=8), method.image_input(old)
        features = [each.encode_images(images).detach() for each in (old, new)]
        inputs = [each.encode_images(images, wanted) for each in (old, new)]
        answers = OldAnswers(draw(40, 5, seed=2), torch.zeros(40, 5))
        given["unlabelled"] = Unlabelled(*features, inputs[1], answers, 1.0, inputs[0])
    with torch.no_grad():
        return transfer.carry(method, module, new, LABELS, TransferData(transfer, **given))


@pytest.mark.parametrize("transfer", ["theseus", "bico"])
def test_on_a_shuffled_copy_the_carried_module_is_the_same_function(
    shuffled: Backbone, transfer: str
) -> None:
    """Activations and gradients are the same in another order, and span the space."""
    method = LORA()
    module = low_rank(CLIP, "image")

    @torch.no_grad()
    def logits(module: Module, backbone: Backbone) -> Tensor:
        inputs = backbone.encode_images(PIXELS, method.image_input(backbone))
        return method.attach(module, backbone, LABELS)(inputs)

    expected = logits(module, CLIP)
    found = logits(carry(transfer, module, shuffled), shuffled)
    assert torch.allclose(found, expected, atol=1e-6)
    # As it was, it is another function there.
    assert float((logits(module, shuffled) - expected).abs().max()) > 1e-3


def test_towers_and_modules_of_another_kind_are_refused(wider_text: Backbone) -> None:
    for transfer, part, target, reason in (
        ("orthogonal-shift", "ln_final.bias", EVA, "is no low-rank update"),
        ("orthogonal-shift", "text", wider_text, "text tower of .* has no such weights"),
        ("theseus", "text.bias", CLIP, r"'text\.bias' is no low-rank update"),
    ):
        towers = part in ("text", "image")
        module = low_rank(CLIP, part) if towers else Module({part: 0.3 * draw(32)})
        with pytest.raises(NotTransferable, match=reason):
            carry(transfer, module, target)


def test_theseus_turns_text_updates_by_what_queries_keys_and_values_are_given_and_make(
    shuffled: Backbone,
) -> None:
    """In the first block, from the embeddings of the prompts' different tokens."""
    module = low_rank(CLIP, "text")
    carried = carry("theseus", module, shuffled)
    given, made = [], []
    for backbone in (CLIP, shuffled):
        model: Any = backbone.model
        ids = backbone.tokenizer([LABELS.templates[0].format(name) for name in LABELS.names])
        x = model.token_embedding(ids) + model.positional_embedding
        ends, shared = ids.argmax(-1), 0
        while len(ids[:, shared].unique()) == 1:
            shared += 1
        rows = [x[0, :shared], *(row[shared : end + 1] for row, end in zip(x, ends, strict=True))]
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
        # Five prompts do not span the space: what no row says is free.
        left, right = made[1][i].detach(), given[1].detach().T
        assert torch.allclose(left @ found @ right, left @ update @ right, atol=1e-6)


def test_what_both_models_differ_in_is_taken_out_of_an_update(shuffled: Backbone) -> None:
    module = low_rank(CLIP, "text", "image")
    carried = carry("orthogonal-shift", module, shuffled)
    for kind in ("text", "image"):
        towers = [getattr(backbone, kind).weights for backbone in (CLIP, shuffled)]
        for i in range(getattr(CLIP, kind).depth):
            name = f"transformer.resblocks.{i}.attn.in_proj_weight"
            shift = (towers[1][name] - towers[0][name]).flatten()
            old, new = (torch.cat([*(m[f"{kind}_b"][i] @ m[f"{kind}_a"][i])]).flatten()
                        for m in (module, carried))  # fmt: skip
            expected = old - old.dot(shift) / shift.dot(shift) * shift
            assert torch.allclose(new, expected, atol=1e-9)
            assert abs(float(new.dot(shift))) < 1e-6 < abs(float(old.dot(shift)))
