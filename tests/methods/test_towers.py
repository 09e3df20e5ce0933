"""Methods that act inside the towers: deep prompts, biases and low-rank updates."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from formulas import (
    WORDS,
    Case,
    Formula,
    Tensors,
    adam,
    close,
    embed,
    fill,
    logits_test,
    make,
    mean_cosine,
    prompted,
    seeded,
    shift_weights,
    step_test,
    unit,
    variants,
)
from image_reference import few_shots, run_image_tower
from open_clip import OPENAI_IMAGENET_TEMPLATES
from open_clip_reference import text_tower
from tiny_models import wrap
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels


def vpt_logits(at: Case) -> Tensor:
    """Return zero-shot logits of images with learned tokens in each block."""
    features = run_image_tower(at.backbone.model.visual, at.images, list(at.own["image_prompts"]))
    return at.cosines(at.photos, features)


def prompted_logits(at: Case) -> Tensor:
    features, texts = prompted(at)
    return at.cosines(texts, features)


TEMPLATES = {
    "imagenet": [fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES][:60],
    "task": ["a photo of a {}.", "a drawing of the {}.", "{} texture"],
}


def promptsrc_loss(at: Case) -> Tensor:
    """Return the cross-entropy and three distances from the frozen model."""
    features, texts = prompted(at)
    frozen = at.backbone.model.visual(at.images)  # type: ignore[operator]
    filled = [at.fill(template) for template in TEMPLATES[at.settings["templates"]]]
    teacher = unit(torch.stack(filled).mean(0))
    logits = at.cosines(texts, features)
    frozen_logits = at.cosines(teacher, frozen)
    text_loss = (unit(texts) - teacher).abs().mean()
    image_loss = (unit(features) - unit(frozen)).abs().mean()
    p = frozen_logits.softmax(1)
    log_q = logits.log_softmax(1)
    divergence = (p * (p.log() - log_q)).mean()
    return at.entropy(logits) + 25 * text_loss + 10 * image_loss + divergence


def adapted(at: Case) -> tuple[Tensor, Tensor]:
    """Return MaPLe's features of images and classes after adapters."""

    def adapt(rows: Tensor, tower: str, ratio: float) -> Tensor:
        down = at.own[f"{tower}_down"]
        up = at.own[f"{tower}_up"]
        hidden = (rows @ down.T).clamp(min=0)
        adapted = (hidden @ up.T).clamp(min=0)
        return ratio * adapted + (1 - ratio) * rows

    features, texts = prompted(at)
    return adapt(features, "image", 0.1), adapt(texts, "text", 0.2)


def coprompt_logits(at: Case) -> Tensor:
    features, texts = adapted(at)
    return at.cosines(texts, features)


def add_low_ranks(at: Case) -> Tensor:
    """Return logits with W + (α/√r) B A as queries, keys and values of the towers."""
    scale = at.settings.get("alpha", 1) / math.sqrt(at.settings.get("rank", 2))
    updated = wrap(copy.deepcopy(at.backbone.model), "updated")
    for kind, blocks in blocks_of(updated).items():
        if f"{kind}_a" in at.own:
            pairs = zip(at.own[f"{kind}_a"], at.own[f"{kind}_b"], strict=True)
            for block, (a, b) in zip(blocks, pairs, strict=True):
                for j in range(3):
                    matrix_of(block.attn, j).data += scale * b[j] @ a[j]
    texts = fill(updated, at.labels, at.settings.get("template", "a photo of a {}."))
    if at.settings.get("encoder") == "text":  # the images are features
        return at.cosines(texts)
    return at.cosines(texts, run_image_tower(updated.model.visual, at.images, []))


def matrix_of(attn: Any, j: int) -> Tensor:
    """Return the matrix of q, k or v, separate or part of a common one."""
    if hasattr(attn, "q_proj"):
        return (attn.q_proj, attn.k_proj, attn.v_proj)[j].weight
    return attn.in_proj_weight.chunk(3)[j]


def bitfit_logits(at: Case) -> Tensor:
    """Return logits with b + Δb for every bias b of the text tower."""
    names = []
    for name, _ in text_tower(at.backbone).named_parameters():
        if name.endswith("bias") and not name.startswith("visual."):
            names.append(name)
    assert list(at.own) == names
    own = {f"text.{name}": change for name, change in at.own.items()}
    return at.cosines(fill(shift_weights(at.backbone, own), at.labels))


def blocks_of(backbone: Backbone) -> dict[str, Any]:
    """Return the blocks of the text tower and of the image tower."""
    visual: Any = backbone.model.visual
    image = visual.transformer.resblocks if hasattr(visual, "transformer") else visual.trunk.blocks
    return {"text": text_tower(backbone).transformer.resblocks, "image": image}


def add_adapter(
    block: Any, given: tuple[Tensor], output: Tensor, own: Tensors, kind: str, i: int, scale: float
) -> Tensor:
    """Return B(x) + κ (U ReLU(S ReLU(D LN(x) + ·) + ·) + ·)."""

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ own[name][i].T + own[f"{name}_bias"][i]

    def relu(x: Tensor) -> Tensor:
        return x * (x > 0)  # with a gradient of 0 at 0, where biases start

    norm: nn.Module = block.ln_1 if hasattr(block, "ln_1") else block.norm1
    hidden = relu(layer("shared", relu(layer(f"{kind}_down", norm(given[0])))))
    return output + scale * layer(f"{kind}_up", hidden)


def mma_logits(at: Case) -> Tensor:
    """Return logits with adapters in the last two thirds of the blocks of the smaller tower."""
    towers = blocks_of(at.backbone)
    scale = at.settings.get("scale", 1e-3)
    depth = min(map(len, towers.values()))
    hooks = []
    for kind, blocks in towers.items():
        for i, block in enumerate(blocks[depth // 3 : depth]):
            adapter = partial(add_adapter, own=at.own, kind=kind, i=i, scale=scale)
            hooks.append(block.register_forward_hook(adapter))
    try:
        features = at.backbone.model.visual(at.images)  # type: ignore[operator]
        return at.cosines(at.photos, features)
    finally:
        for hook in hooks:
            hook.remove()


def mma_loss(at: Case) -> Tensor:
    """Return the loss whose gradient is that of κ = 1."""
    return at.entropy(mma_logits(at)) / at.settings["scale"]


def put_behind(block: Any, given: tuple[Tensor], count: int, tokens: Tensor) -> tuple[Tensor]:
    """Return a block's input with tokens after the image's own."""
    x = given[0]
    return (torch.cat([x[:, :count], tokens.expand(len(x), -1, -1)], dim=1),)


def represented(at: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Return features of images, of their learned tokens, and of classes.

    The learned tokens enter at 5/12 of the blocks.
    """

    def project(kind: str) -> list[Tensor]:
        projected = []
        for weight, bias in zip(own[kind], own[f"{kind}_bias"], strict=True):
            projected.append(own["tokens"] @ weight.T + bias)
        return projected

    towers = blocks_of(at.backbone)
    tower = text_tower(at.backbone)
    own = at.own
    depth = min(map(len, towers.values()))
    first = 5 * depth // 12
    count = len(at.own["tokens"])
    text = project("text")
    image = project("image")
    ids = at.backbone.tokenizer([f"a photo of a {name}." for name in at.labels.names])
    x = tower.token_embedding(ids) + tower.positional_embedding
    for i, block in enumerate(towers["text"]):
        if 0 <= i - first < len(text):
            behind = x[:, 1 if i == first else 1 + count :]
            x = torch.cat([x[:, :1], text[i - first].expand(len(x), -1, -1), behind], dim=1)
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1).to(x)
        x = block(x, attn_mask=mask)
    ends = ids.argmax(-1) + count
    texts = tower.ln_final(x)[torch.arange(len(x)), ends] @ tower.text_projection

    visual: Any = at.backbone.model.visual
    rows: list[Tensor] = []
    hooks = [towers["image"][-1].register_forward_hook(lambda *given: rows.append(given[2]))]
    if first:
        features = run_image_tower(visual, at.images, [image[0][:0]] * first + image)
    else:  # after the norm before the first block
        own_tokens = len(visual.positional_embedding)
        for block, tokens in zip(towers["image"], image, strict=True):
            put = partial(put_behind, count=own_tokens, tokens=tokens)
            hooks.append(block.register_forward_pre_hook(put))
        features = visual(at.images)
    for hook in hooks:
        hook.remove()
    norm = visual.ln_post if hasattr(visual, "ln_post") else visual.trunk.norm
    return features, norm(rows[0][:, -count:]).mean(1) @ at.own["projection"], texts


def mmrl_logits(at: Case) -> Tensor:
    """Return 0.7 z + 0.3 z'."""
    features, others, texts = represented(at)
    return 0.7 * at.cosines(texts, features) + 0.3 * at.cosines(texts, others)


def mmrl_loss(at: Case) -> Tensor:
    """Return 0.7 CE(z) + 0.3 CE(z'), and half of the distances from the frozen model."""
    features, others, texts = represented(at)
    first = at.entropy(at.cosines(texts, features))
    second = at.entropy(at.cosines(texts, others))
    frozen = at.backbone.model.visual(at.images)  # type: ignore[operator]
    away = 2 - mean_cosine(features, frozen) - mean_cosine(texts, at.photos)
    return 0.7 * first + 0.3 * second + 0.5 * away


SMOOTH = {"warmup_epochs": 0, "eps": 0.1}  # of Adam
UNEQUAL = {"text_length": 4, "text_depth": 1, "image_length": 3, "image_depth": 2}
STEPS = [
    Formula("bitfit", bitfit_logits, None, adam(0.1, 1e-3), SMOOTH, step=1e-10),
    *variants("vpt_deep", vpt_logits, {}, {"depth": 1}),
    Formula("vpt_shallow", vpt_logits),
    *variants("ivlp", prompted_logits, {}, UNEQUAL),
    *variants("maple", prompted_logits, {}, {"depth": 1}),
    *variants(
        "promptsrc",
        prompted_logits,
        {"templates": "imagenet"},
        {"templates": "task"},
        loss=promptsrc_loss,
    ),
    *variants("mma", mma_logits, {"scale": 0.05, "width": 4}, loss=mma_loss),
    Formula(
        "mmrl",
        mmrl_logits,
        mmrl_loss,
        adam(0.1, 1e-3, decoupled=5e-4),
        SMOOTH,
        {"length": 3, "width": 8},
        step=1e-9,
    ),
]

LOW_RANKS: list[dict[str, Any]] = [
    {},
    {"encoder": "text"},
    {"encoder": "image"},
    {"rank": 3, "alpha": 0.5},
    {"template": "a drawing of a {}."},
]
FORMULAS = [
    *STEPS,
    Formula("coprompt", coprompt_logits),
    Formula("mma", mma_logits),
    *variants("clip_lora", add_low_ranks, *LOW_RANKS),
]


test_logits_equal_the_formula = logits_test(FORMULAS)
test_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


@pytest.mark.parametrize("name", ["ivlp", "maple", "promptsrc", "coprompt"])
def test_text_prompts_start_at_words(backbone: Backbone, labels: Labels, name: str) -> None:
    module = make(name).init(backbone, few_shots(backbone, labels)[0], torch.Generator())
    first, *_ = module["text_prompts"]
    assert torch.equal(first, embed(backbone, WORDS)[: len(first)])


def test_vpt_uses_one_template_or_the_template_of_the_task(clip: Backbone) -> None:
    labels = Labels(("dog", "tree"), ("{} texture.",), "{} texture.")
    module = make("vpt_deep").init(clip, few_shots(clip, labels)[0], torch.Generator())
    for template in ("a photo of a {}.", None):
        method = make("vpt_deep", template=template)
        expected = clip.zero_shot(labels, template or "{} texture.")
        torch.testing.assert_close(method.attach(module, clip, labels).weights, expected)


@pytest.mark.parametrize("name", ["vpt_deep", "maple"])
@pytest.mark.parametrize("entry", ["raw", "post-ln"])
@pytest.mark.usefixtures("float64")
def test_first_tokens_enter_another_tower_as_declared(
    clip64: Backbone, labels: Labels, name: str, entry: str
) -> None:
    """Raw tokens pass the norm of the other tower, so they change with it."""
    method = make(name, entry=entry, max_steps=1)
    module = method.fit(clip64, few_shots(clip64, labels)[0], seeded(1))
    expected = {"entered"} if entry == "post-ln" else set()
    assert set(module.stored) == expected
    raw = method.image_prompts(module)[0]
    model: Any = copy.deepcopy(clip64.model)
    entered = model.visual.ln_pre(raw)

    def check(expected: Tensor) -> None:
        [first, *_] = method.insert(module, wrap(model, "other"))
        close(first, expected)

    check(entered)
    model.visual.ln_pre.bias.data += 1.0
    check(entered + 1 if entry == "raw" else entered)
    model.visual.ln_pre = torch.nn.Identity()
    check(raw if entry == "raw" else entered)


def test_promptsrc_averages_epochs_with_gaussian_weights() -> None:
    weights = make("promptsrc").epoch_weights(50)
    density = [math.exp(-((j - 30) ** 2) / (2 * 30**2)) for j in range(1, 51)]
    total = sum(density)
    assert weights == pytest.approx([value / total for value in density])
