"""Transfers of weight differences: rotated by activations or gradients, or without the shift."""

from __future__ import annotations

import copy
import itertools
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
from compatbench.transfers.lorasuite import compare_blocks, match_blocks, match_channels

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


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("theseus", ["image"]), ("bico", ["image"]), ("lorasuite", ["image", "text"])],
)
def test_module_carried_to_a_shuffled_copy_computes_the_same(
    shuffled: Backbone, name: str, kinds: list[str]
) -> None:
    """Activations, gradients and weights are the same in another order, and span the space."""
    method = LORA()
    module = low_rank(CLIP, *kinds)

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


def test_lorasuite_leaves_a_module_on_its_own_model_as_it_is() -> None:
    module = low_rank(CLIP, "image", "text")
    carried = carry("lorasuite", module, CLIP)
    for name, tensor in module.tensors.items():
        assert torch.allclose(carried[name], tensor)


def test_lorasuite_updates_the_matched_blocks_and_heads_of_a_deeper_tower() -> None:
    deeper = wrap(tiny_clip(seed=3, image_layers=4).double(), "deeper")
    module = low_rank(CLIP, "image")
    carried = carry("lorasuite", module, deeper)
    # The known parameters are pixels, positions and the class token.
    known = []
    for backbone in (CLIP, deeper):
        visual: Any = backbone.model.visual
        pixels = visual.conv1.weight.reshape(32, -1).T
        known.append(torch.cat([pixels, visual.positional_embedding, visual.class_embedding[None]]))
    channels = torch.linalg.lstsq(*known).solution
    images = 0.3 * draw(40, 3, 24, 24, seed=8)
    old_rows = [CLIP.image.embed(images, block) for block in range(2)]
    new_rows = [deeper.image.embed(images, block) for block in range(4)]
    pairs = best_pairs(old_rows, new_rows, deeper)
    matched = [new for _, new in pairs]
    for block in {0, 1, 2, 3} - set(matched):
        assert not carried["image_b"][block].any()
    for old, new in pairs:
        assert torch.allclose(carried["image_a"][new], module["image_a"][old] @ channels)
        expected = turn_b(CLIP, old, deeper, new, channels, module["image_b"][old])
        assert torch.allclose(carried["image_b"][new], expected)


def best_pairs(
    old_rows: list[Tensor], new_rows: list[Tensor], deeper: Backbone
) -> list[tuple[int, int]]:
    """Return the best of all matchings in order, by CKA of what enters the attention."""

    def center(rows: Tensor, backbone: Backbone, block: int) -> Tensor:
        model: Any = backbone.model
        entered = model.visual.transformer.resblocks[block].ln_1(rows).flatten(0, 1)
        return (entered - entered.mean(0)).detach()

    def similarity(i: int, j: int) -> float:
        x = center(old_rows[i], CLIP, i)
        y = center(new_rows[j], deeper, j)
        kernels = (x @ x.T, y @ y.T)
        product = (kernels[0] * kernels[1]).sum()
        return float(product / kernels[0].norm() / kernels[1].norm())

    choices = itertools.combinations(range(4), 2)
    first, second = max(choices, key=lambda two: similarity(0, two[0]) + similarity(1, two[1]))
    return [(0, first), (1, second)]


def turn_b(old: Backbone, i: int, new: Backbone, j: int, channels: Tensor, b: Tensor) -> Tensor:
    """Return B with the channels of its two heads rotated, and its heads in the best order."""
    sides = []
    for backbone, block, change in ((old, i, channels), (new, j, torch.eye(32).double())):
        model: Any = backbone.model
        attention = model.visual.transformer.resblocks[block].attn
        q, k, v = (attention.in_proj_weight.detach() @ change).reshape(3, 2, 16, 32)
        out = (change.T @ attention.out_proj.weight.detach()).reshape(32, 2, 16).transpose(0, 1)
        sides.append((q, k, v, out))

    def cosine(x: Tensor, y: Tensor) -> float:
        return float((x * y).sum() / x.norm() / y.norm())

    (q, k, v, out), (new_q, new_k, new_v, new_out) = sides

    def similarity(x: int, y: int) -> float:
        same = cosine(q[x].T @ k[x], new_q[y].T @ new_k[y])
        return same + cosine(out[x] @ v[x], new_out[y] @ new_v[y])

    straight = similarity(0, 0) + similarity(1, 1) > similarity(0, 1) + similarity(1, 0)
    result = torch.zeros_like(b)
    for x in range(2):
        y = x if straight else 1 - x
        for part in range(3):
            if part == 2:
                product = v[x] @ new_v[y].T + out[x].T @ new_out[y]
            else:
                product = q[x] @ new_q[y].T + k[x] @ new_k[y].T
            u, _, w = torch.linalg.svd(product)
            rows = slice(16 * x, 16 * x + 16)
            result[part, 16 * y : 16 * y + 16] = (u @ w).T @ b[part, rows]
    return result


def test_lorasuite_matches_blocks_in_order_by_the_largest_sum() -> None:
    similarities = draw(3, 6, seed=4).abs()

    def total(chosen: tuple[int, ...]) -> float:
        return sum(float(similarities[i, j]) for i, j in enumerate(chosen))

    best = max(itertools.combinations(range(6), 3), key=total)
    assert match_blocks(similarities) == list(enumerate(best))
    assert match_blocks(similarities.T) == [(j, i) for i, j in enumerate(best)]
    assert match_blocks(draw(4, 4)) == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_lorasuite_refuses_towers_that_share_no_parameters() -> None:
    with pytest.raises(NotTransferable, match="the image towers differ in patches"):
        match_channels(CLIP, EVA, "image")
    with pytest.raises(NotTransferable, match="the towers differ in tokens"):
        compare_blocks([draw(6, 4)], [draw(5, 4)])


def test_lorasuite_refuses_a_module_of_another_depth() -> None:
    whole = low_rank(CLIP, "image")
    first = Module({name: tensor[:1] for name, tensor in whole.trained.items()})
    with pytest.raises(
        NotTransferable, match="the module updates 1 blocks, and its image tower has 2"
    ):
        carry("lorasuite", first, CLIP)
