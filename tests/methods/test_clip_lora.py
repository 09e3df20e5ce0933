"""CLIP-LoRA: W + (α/√r) B A for the queries, keys and values of both towers."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from formulas import cosine_logits, cross_entropy, photo_texts
from image_reference import draw_images, few_shots, run_image_tower
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, ImageInput, Labels
from compatbench.method import Module, NotTransferable
from compatbench.method.trained import Batch
from compatbench.methods.clip_lora import CLIPLoRA, draw_mask

HIDDEN = ImageInput("hidden", 0)


def settings(**changes: object) -> CLIPLoRA:
    return CLIPLoRA(CLIPLoRA.Config.model_validate(changes))


def random_module(backbone: Backbone, rank: int = 2) -> Module:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {}
    for kind, tower in (("text", backbone.text), ("image", backbone.image)):
        tensors[f"{kind}_a"] = draw(tower.depth, 3, rank, tower.width)
        tensors[f"{kind}_b"] = draw(tower.depth, 3, tower.width, rank)
    return Module(tensors)


def updated(backbone: Backbone, module: Module, scale: float = 1 / math.sqrt(2)) -> Backbone:
    """A copy of the backbone whose matrices have been overwritten: merged weights."""
    model: Any = copy.deepcopy(backbone.model)
    text = getattr(model, "text", model).transformer.resblocks
    visual = model.visual
    image = visual.transformer.resblocks if hasattr(visual, "transformer") else visual.trunk.blocks
    for kind, blocks in (("text", text), ("image", image)):
        if f"{kind}_a" not in module.trained:
            continue
        for block, a, b in zip(blocks, module[f"{kind}_a"], module[f"{kind}_b"], strict=True):
            for j in range(3):
                matrix(block.attn, j).data += scale * b[j] @ a[j]
    return wrap(model, "updated")


def matrix(attn: Any, j: int) -> Tensor:
    """The matrix of q, k or v, whether there is one for each or one for all."""
    if hasattr(attn, "q_proj"):
        return (attn.q_proj, attn.k_proj, attn.v_proj)[j].weight
    return attn.in_proj_weight.chunk(3)[j]


def naive_logits(backbone: Backbone, labels: Labels, images: Tensor) -> Tensor:
    texts = photo_texts(backbone, labels)
    features = run_image_tower(backbone.model.visual, images, [])
    return cosine_logits(backbone, texts, features)


def test_the_logits_equal_those_of_merged_weights(backbone64: Backbone, labels: Labels) -> None:
    module, images = random_module(backbone64), draw_images(backbone64, 4)
    classify = CLIPLoRA().attach(module, backbone64, labels)
    found = classify(backbone64.encode_images(images, HIDDEN))
    expected = naive_logits(updated(backbone64, module), labels, images)
    assert (expected - naive_logits(backbone64, labels, images)).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_one_tower_alone_is_changed_on_request(
    backbone64: Backbone, labels: Labels, kind: str
) -> None:
    method = settings(encoder=kind)
    both = random_module(backbone64).trained
    module = Module({name: t for name, t in both.items() if name.startswith(kind)})
    images = draw_images(backbone64, 4)
    inputs = backbone64.encode_images(images, method.image_input(backbone64))
    found = method.attach(module, backbone64, labels)(inputs)
    expected = naive_logits(updated(backbone64, module), labels, images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_alpha_over_the_root_of_the_rank_scales_the_update(
    clip64: Backbone, labels: Labels
) -> None:
    module, images = random_module(clip64, rank=3), draw_images(clip64, 4)
    classify = settings(rank=3, alpha=0.5).attach(module, clip64, labels)
    found = classify(clip64.encode_images(images, HIDDEN))
    expected = naive_logits(updated(clip64, module, 0.5 / math.sqrt(3)), labels, images)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def masked_projections(backbone: Backbone, module: Module, seed: int, count: int) -> Backbone:
    """CLIP with branches beside its projections: of the text a mask of the columns, of images
    a mask of every number, all drawn from one stream, text first and in order of the blocks."""
    generator = torch.Generator().manual_seed(seed)
    scale = 1 / math.sqrt(2)
    model: Any = copy.deepcopy(backbone.model)
    branches: Any = SimpleNamespace(image={})
    layers, width = backbone.text.depth, backbone.text.width
    keep = torch.rand(layers, 3, 1, width, generator=generator) >= 0.25
    branches.text = {i: keep[i] for i in range(layers)}
    for i in range(backbone.image.depth):
        shape = count, backbone.image.tokens, backbone.image.width
        masks = [torch.rand(shape, generator=generator) >= 0.25 for _ in range(3)]
        branches.image[i] = torch.stack(masks)

    def attach(block: Any, a: Tensor, b: Tensor, masks: Tensor) -> None:
        attn = block.attn
        heads, weight, bias = attn.num_heads, attn.in_proj_weight, attn.in_proj_bias

        def attend(q_x: Tensor, k_x: Any = None, v_x: Any = None, attn_mask: Any = None) -> Tensor:
            parts = []
            for j in range(3):
                own = q_x @ weight.chunk(3)[j].T + bias.chunk(3)[j]
                dropped = q_x * masks[j] / 0.75
                parts.append(own + scale * dropped @ a[j].T @ b[j].T)
            q, k, v = (y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in parts)
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            scores = scores if attn_mask is None else scores + attn_mask
            return attn.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))

        block.attention = attend

    towers: Any = ((model.transformer, "text"), (model.visual.transformer, "image"))
    for tower, kind in towers:
        for i, block in enumerate(tower.resblocks):
            masks = getattr(branches, kind)[i]
            attach(block, module[f"{kind}_a"][i], module[f"{kind}_b"][i], masks)
    return wrap(model, "masked")


def test_the_first_step_follows_the_gradient_under_dropout(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    """AdamW's first step is decay, then the sign of the gradient: lr · g / (|g| + ε)."""
    data, views = few_shots(clip64, labels)
    recipe = CLIPLoRA.Config().recipe.model_copy(update={"eps": 0.1, "lr": 0.02})
    found = settings(recipe=recipe, max_steps=1).fit(clip64, data, torch.Generator().manual_seed(3))

    rng = torch.Generator().manual_seed(3)
    start = CLIPLoRA().init(clip64, data, rng)
    order = torch.randperm(len(data.train), generator=rng)
    seed = int(torch.randint(2**62, (), generator=rng))
    for tensor in start.trained.values():
        tensor.requires_grad_()
    masked = masked_projections(clip64, start, seed, len(order))
    logits = naive_logits(masked, labels, views[0][order])
    loss = cross_entropy(logits, data.train.targets[order])
    gradients = torch.autograd.grad(loss, list(start.trained.values()))
    for (name, tensor), gradient in zip(start.trained.items(), gradients, strict=True):
        step = gradient / (gradient.abs() + 0.1)
        expected = tensor * (1 - 0.02 * 1e-2) - 0.02 * step
        assert name.endswith("_a") or expected.abs().max() > 1e-5, name
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-8, atol=1e-11)


def test_the_loss_under_dropout_equals_the_formula(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    data, views = few_shots(clip64, labels)
    module, tokens = random_module(clip64), data.train.inputs(torch.arange(10))
    rng = torch.Generator().manual_seed(5)
    batch = Batch(data.train.plain, data.train.targets, clip64, labels, tokens, rng=rng)
    found = CLIPLoRA().loss(CLIPLoRA().attach(module, clip64, labels), batch)
    seed = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5)))
    masked = masked_projections(clip64, module, seed, 10)
    expected = cross_entropy(naive_logits(masked, labels, views[0]), data.train.targets)
    plain = cross_entropy(naive_logits(updated(clip64, module), labels, views[0]), batch.targets)
    assert (expected - plain).abs() > 1e-2
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_masks_keep_the_mean() -> None:
    mask = draw_mask((400, 500), torch.device("cpu"), 0.25, torch.Generator().manual_seed(1))
    assert mask.unique().tolist() == pytest.approx([0, 4 / 3])
    assert float(mask.mean()) == pytest.approx(1, abs=0.01)


def test_another_seed_drops_others(clip: Backbone, labels: Labels) -> None:
    data, _ = few_shots(clip, labels)
    method = settings(max_steps=3)
    one, again, other = (
        method.fit(clip, data, torch.Generator().manual_seed(seed)).fingerprint
        for seed in (1, 1, 2)
    )
    assert one == again != other


@pytest.mark.parametrize(("steps", "expected"), [(500, 1000), (1, 2)])
def test_a_fit_takes_so_many_steps_for_each_shot(
    clip: Backbone,
    labels: Labels,
    monkeypatch: pytest.MonkeyPatch,
    steps: int,
    expected: int,
) -> None:
    """Two shots; ten images are one batch, so an epoch is a step."""
    data, _ = few_shots(clip, labels)
    seen = []

    class Counted(Exception):
        pass

    def count(recipe: Any, epoch: int, epochs: int, *_: int) -> float:
        seen.append(epochs)
        raise Counted

    monkeypatch.setattr("compatbench.method.trained.learning_rate", count)
    with pytest.raises(Counted):
        settings(steps_per_shot=steps).fit(clip, data, torch.Generator())
    assert seen == [expected]


def test_another_width_and_fewer_blocks_are_refused(
    clip: Backbone, eva: Backbone, wider_text: Backbone, labels: Labels
) -> None:
    module = random_module(clip)
    with pytest.raises(NotTransferable, match="image tokens of width 32, not 128"):
        CLIPLoRA().attach(module, eva, labels)
    with pytest.raises(NotTransferable, match="text tokens of width 32, not 48"):
        CLIPLoRA().attach(module, wider_text, labels)
    with pytest.raises(NotTransferable, match="text towers of 3 blocks or more, not 2"):
        CLIPLoRA().attach(module, wrap(tiny_clip(layers=2), "shallower"), labels)
    module.trained["image_a"] = torch.zeros(3, 3, 2, 32)
    with pytest.raises(NotTransferable, match="image towers of 3 blocks or more, not 2"):
        CLIPLoRA().attach(module, clip, labels)
