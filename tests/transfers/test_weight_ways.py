"""Transfers of weight differences: permuted to the target's units, or put into its subspaces."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from random_matrices import draw
from tiny_models import tiny_clip, tiny_eva_clip
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.extras.check.method_under_test import LABELS
from compatbench.extras.check.models import wrap
from compatbench.method import FeatureSet, FewShotData, Module
from compatbench.method.registry import builtin_methods, builtin_transfers
from compatbench.method.transfer import OldAnswers, TransferData, Unlabelled
from compatbench.transfers.few_shot_orthogonal import FewShotOrthogonal
from compatbench.transfers.subspace import Subspace, leading_subspaces
from compatbench.transfers.transfusion import permute, split

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
                parts = [permute(n, t, order) for n, t in split({name: tensor.data}).items()]
                tensor.data = torch.cat(parts)
    other = wrap(model, "shuffled")
    for encode in (lambda each: each.zero_shot(LABELS), lambda each: each.encode_images(PIXELS)):
        assert torch.allclose(encode(other), encode(CLIP), atol=1e-9)
    return other


def carry(way: str, module: Module, new: Backbone, old: Backbone = CLIP) -> Module:
    """The module for another model; images, where they are needed, are forty that both see."""
    transfer: Any = builtin_transfers().get(way)()
    method, given = LORA(), dict[str, Any](source=old)
    if "unlabelled" in transfer.card.access:
        images, wanted = 0.3 * draw(40, 3, 24, 24, seed=8), method.image_input(old)
        features = [each.encode_images(images).detach() for each in (old, new)]
        inputs = [each.encode_images(images, wanted) for each in (old, new)]
        answers = OldAnswers(draw(40, 5, seed=2), torch.zeros(40, 5))
        given["unlabelled"] = Unlabelled(*features, inputs[1], answers, 1.0, inputs[0])
    with torch.no_grad():
        return transfer.carry(method, module, new, LABELS, TransferData(transfer, **given))


@pytest.mark.parametrize(
    ("way", "name", "towers"),
    [
        ("transfusion", "clip_lora", ["text", "image"]),
        ("transfusion", "bitfit", []),
        # Activations and gradients are the same in another order, and span the space.
        ("theseus", "clip_lora", ["image"]),
        ("bico", "clip_lora", ["image"]),
    ],
)
def test_on_a_shuffled_copy_the_carried_module_is_the_same_function(
    shuffled: Backbone, way: str, name: str, towers: list[str]
) -> None:
    method: Any = builtin_methods().get(name)()
    module = low_rank(CLIP, *towers)
    if name == "bitfit":
        biases = {n: t for n, t in CLIP.text.weights.items() if n.endswith("bias")}
        noise = {n: 0.3 * draw(*t.shape, seed=i) for i, (n, t) in enumerate(biases.items())}
        module = Module(noise)

    @torch.no_grad()
    def logits(module: Module, backbone: Backbone) -> Tensor:
        inputs = backbone.encode_images(PIXELS, method.image_input(backbone))
        return method.attach(module, backbone, LABELS)(inputs)

    expected, found = logits(module, CLIP), logits(carry(way, module, shuffled), shuffled)
    assert torch.allclose(found, expected, atol=1e-9 if way == "transfusion" else 1e-6)
    # As it was, it is another function there.
    assert float((logits(module, shuffled) - expected).abs().max()) > 1e-3


def test_towers_and_modules_of_another_kind_are_refused(wider_text: Backbone) -> None:
    for way, part, target, why in (
        ("transfusion", "image", EVA, "image towers are not built alike"),
        ("transfusion", "text", wider_text, "text towers are not built alike"),
        ("transfusion", "context", EVA, "'context' is no difference"),
        ("subspace", "ln_final.bias", EVA, "is no low-rank update"),
        ("orthogonal-shift", "text", wider_text, "text tower of .* has no such weights"),
        ("theseus", "text.bias", CLIP, r"'text\.bias' is no low-rank update"),
    ):
        towers = part in ("text", "image")
        module = low_rank(CLIP, part) if towers else Module({part: 0.3 * draw(32)})
        with pytest.raises(NotTransferable, match=why):
            carry(way, module, target)


def test_a_subspace_projects_each_update_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subspace, "share", 0.5)
    module = low_rank(CLIP, "text")
    found = carry("subspace", module, EVA)
    for i in range(CLIP.text.depth):
        fused = EVA.text.weights[f"transformer.resblocks.{i}.attn.in_proj_weight"]
        for j, weight in enumerate(fused.chunk(3)):
            u, s, v = torch.linalg.svd(weight)
            rank = next(r for r in range(1, len(s) + 1) if s[:r].norm() ** 2 >= 0.5 * s.norm() ** 2)
            left, right = u[:, :rank] @ u[:, :rank].T, v[:rank].T @ v[:rank]
            update = module["text_b"][i, j] @ module["text_a"][i, j]
            made = found["text_b"][i, j] @ found["text_a"][i, j]
            assert torch.allclose(made, left @ update @ right, atol=1e-9)
            assert rank < len(s)
    # The whole space leaves it as it is.
    monkeypatch.setattr(Subspace, "share", 1.0)
    module = low_rank(EVA, "text", "image")
    for name, tensor in carry("subspace", module, EVA, EVA).trained.items():
        assert torch.allclose(tensor, module[name], atol=1e-9)
    assert leading_subspaces(torch.eye(4), 0.9)[0].shape == (4, 4)


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


@pytest.mark.usefixtures("float64")
def test_few_shot_turns_follow_cross_entropy_and_their_distance_from_orthogonal(
    data64: FewShotData,
) -> None:
    """Two steps of AdamW without validation images; the second is off the orthogonal matrices."""
    method = LORA(LORA.Config(max_steps=2, encoder="text"))
    module = low_rank(CLIP, "text")
    none = data64.val
    none = FeatureSet(none.plain[:0], none.views[:, :0], none.targets[:0])
    data = FewShotData(data64.labels, data64.shots, data64.train, none)
    config = FewShotOrthogonal.Config(shots=data.shots, rates=(0.05,), beta=2.0, epochs=2)
    transfer = FewShotOrthogonal(config)
    found = transfer.carry(method, module, EVA, data.labels, TransferData(transfer, 3, labels=data))

    a, b, rng = module["text_a"], module["text_b"], torch.Generator().manual_seed(3)
    turns = torch.eye(32).repeat(*a.shape[:2], 1, 1).requires_grad_()
    optimizer = torch.optim.AdamW([turns], lr=0.05, weight_decay=0.1)
    for step in range(2):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * step / 2)) / 2
        order = torch.randperm(len(data.train), generator=rng)
        turned = Module({"text_a": a @ turns, "text_b": turns.mT @ b})
        logits = method.attach(turned, EVA, data.labels)(data.train.views[step][order])
        loss = torch.nn.functional.cross_entropy(logits, data.train.targets[order])
        apart = [(u.T @ u - torch.eye(32)).square().sum() for block in turns for u in block]
        loss = loss + 2 * sum(x.sqrt() if x > 0 else 0 * x for x in apart) / len(apart)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((turns.detach() - torch.eye(32)).abs().max()) > 0.05
    for name, expected in (("text_a", a @ turns), ("text_b", turns.mT @ b)):
        assert torch.allclose(found[name], expected.detach(), atol=1e-9)
