"""Methods of 2022 to 2025 inside the towers, and their teachers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from formulas import (
    Formula,
    Tensors,
    adam,
    cosine_logits,
    cross_entropy,
    descend,
    embed,
    logits_test,
    mean_cosine,
    naive_plan,
    photo_texts,
    prompted,
    scale_of,
    step_test,
    unit,
    unit_texts,
)
from image_reference import few_shots, run_image_tower
from open_clip_reference import encode_contexts, encode_texts, text_tower
from tiny_models import tiny_clip, wrap
from torch import Tensor, nn

from compatbench.backbone import Backbone, Labels
from compatbench.errors import CompatbenchError
from compatbench.method import FEATURES, FewShotData, ImageInput, Module, NotTransferable, Teacher
from compatbench.method.trained import Recipe
from compatbench.methods.kdpl import KDPL
from compatbench.methods.mma import MMA
from compatbench.methods.mmrl import MMRL
from compatbench.methods.plot_pp import PLOTPlusPlus
from compatbench.methods.promptkd import PromptKD
from compatbench.methods.promptsrc import PromptSRC


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
    """Adapters in the last two thirds of the smaller tower, and in the same blocks of the other."""
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


PHRASES = ("a photo of a", "this is a photo of one", "one image of a")


def set_features(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of images with each set of prompts, ``[M, n, e]``, and of classes, ``[N, C, e]``."""
    visual = backbone.model.visual
    features = [run_image_tower(visual, images, [tokens]) for tokens in own["image_prompts"]]
    texts = [
        encode_texts(backbone, [f"{phrase} {name}." for name in labels.names], context)
        for phrase, context in zip(PHRASES, own["contexts"], strict=True)
    ]
    return torch.stack(features), torch.stack(texts)


def transport_logits(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, pooled: bool = False
) -> Tensor:
    """z_ic = s Σ_mn T_mn ⟨f_im, t_cn⟩; in the first stage also the cosine of mean features."""
    features, texts = set_features(backbone, labels, own, images)
    rows = []
    for i in range(len(images)):
        row = []
        for c in range(len(labels)):
            similarity = unit(features[:, i]) @ unit(texts[:, c]).T
            plan = naive_plan(similarity.detach(), 0.1, 100, 1e-2)
            row.append(scale_of(backbone) * (plan * similarity).sum())
        rows.append(torch.stack(row))
    logits = torch.stack(rows)
    means = cosine_logits(backbone, texts.mean(0), features.mean(0))
    return logits + means if pooled else logits


def add_teacher(
    backbone: Backbone, labels: Labels, wanted: ImageInput
) -> tuple[FewShotData, Backbone, Tensor]:
    """Few shots with a teacher of another joint space, and the images of the first view."""
    teacher = wrap(tiny_clip(seed=5, embed_dim=24).double(), "teacher")
    data, views = few_shots(backbone, labels, wanted)
    seen, _ = few_shots(teacher, labels, wanted)
    few, taught = (
        replace(each, unlabelled=replace(each.train, targets=-torch.ones_like(each.train.targets)))
        for each in (data, seen)
    )
    return replace(few, teacher=Teacher(teacher, taught)), teacher, views[0]


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Σ_i KL(p_i ‖ q_i) of rows of probabilities."""
    return (p * (p.log() - q.log())).sum()


def put_behind(block: Any, given: tuple[Tensor], count: int, tokens: Tensor) -> tuple[Tensor]:
    """A block's input, in which tokens follow the image's own."""
    x = given[0]
    return (torch.cat([x[:, :count], tokens.expand(len(x), -1, -1)], dim=1),)


def represented(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of images, of their learned tokens, and of classes, from 5/12 of the blocks on."""
    towers, tower = blocks_of(backbone), text_tower(backbone)
    depth = min(map(len, towers.values()))
    first, count = 5 * depth // 12, len(own["tokens"])
    text, image = (
        [own["tokens"] @ w.T + b for w, b in zip(own[kind], own[f"{kind}_bias"], strict=True)]
        for kind in ("text", "image")
    )
    ids = backbone.tokenizer([f"a photo of a {name}." for name in labels.names])
    x = tower.token_embedding(ids) + tower.positional_embedding
    for i, block in enumerate(towers["text"]):
        if 0 <= i - first < len(text):
            behind = x[:, 1 if i == first else 1 + count :]
            x = torch.cat([x[:, :1], text[i - first].expand(len(x), -1, -1), behind], dim=1)
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf).triu(1).to(x)
        x = block(x, attn_mask=mask)
    ends = ids.argmax(-1) + count
    texts = tower.ln_final(x)[torch.arange(len(x)), ends] @ tower.text_projection

    visual: Any = backbone.model.visual
    rows: list[Tensor] = []
    hooks = [towers["image"][-1].register_forward_hook(lambda *given: rows.append(given[2]))]
    if first:
        features = run_image_tower(visual, images, [image[0][:0]] * first + image)
    else:  # behind the norm before the first block
        own_tokens = len(visual.positional_embedding)
        for block, tokens in zip(towers["image"], image, strict=True):
            put = partial(put_behind, count=own_tokens, tokens=tokens)
            hooks.append(block.register_forward_pre_hook(put))
        features = visual(images)
    for hook in hooks:
        hook.remove()
    norm = visual.ln_post if hasattr(visual, "ln_post") else visual.trunk.norm
    return features, norm(rows[0][:, -count:]).mean(1) @ own["projection"], texts


def mmrl_logits(backbone: Backbone, labels: Labels, own: Tensors, images: Tensor) -> Tensor:
    """0.7 z + 0.3 z'."""
    features, others, texts = represented(backbone, labels, own, images)
    first, second = (cosine_logits(backbone, texts, each) for each in (features, others))
    return 0.7 * first + 0.3 * second


def mmrl_loss(
    backbone: Backbone, labels: Labels, own: Tensors, images: Tensor, targets: Tensor
) -> Tensor:
    """0.7 CE(z) + 0.3 CE(z'), and half of the distances from the frozen model."""
    features, others, texts = represented(backbone, labels, own, images)
    first, second = (
        cross_entropy(cosine_logits(backbone, texts, each), targets) for each in (features, others)
    )
    frozen = backbone.model.visual(images)  # type: ignore[operator]
    away = 2 - mean_cosine(features, frozen) - mean_cosine(texts, photo_texts(backbone, labels))
    return 0.7 * first + 0.3 * second + 0.5 * away


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
    "mmrl": Formula(
        MMRL,
        mmrl_logits,
        mmrl_loss,
        update=adam(0.1, rate=1e-3, decoupled=5e-4),
        recipe={"warmup_epochs": 0, "eps": 0.1},
        settings={"length": 3, "width": 8},
        exact=1e-9,
        step=1e-9,
    ),
}

FORMULAS = STEPS | {
    "mma-published": Formula(MMA, partial(mma_logits, scale=1e-3), exact=1e-9),
    "plot_pp": Formula(
        PLOTPlusPlus,
        transport_logits,
        settings={"phrases": PHRASES, "image_prompts": 2},
        exact=1e-9,
    ),
}


test_logits_equal_the_formula = logits_test(FORMULAS)
test_the_first_step_follows_the_gradient_of_the_formula = step_test(STEPS)


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


def test_plot_pp_trains_image_prompts_by_both_logits_and_then_all_by_transport(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    """A step of each stage, over all images, from the rates and gradients of the formulas."""
    formula = FORMULAS["plot_pp"]
    recipe = Recipe(warmup_epochs=0, lr=0.1)
    method = formula.build(recipe=recipe, max_steps=2)
    data, views = few_shots(clip64, labels, method.image_input(clip64))
    own = method.init(clip64, data, torch.Generator().manual_seed(3)).trained
    assert torch.equal(own["contexts"][1], embed(clip64, "this is a photo of one")[:4])
    for pooled, names in ((True, ["image_prompts"]), (False, ["contexts", "image_prompts"])):
        parts = [own[name].requires_grad_() for name in names]
        logits = transport_logits(clip64, labels, own, views[0], pooled)
        gradients = torch.autograd.grad(cross_entropy(logits, data.train.targets), parts)
        assert all(gradient.abs().max() > 1e-6 for gradient in gradients)
        for name, gradient in zip(names, gradients, strict=True):
            own[name] = descend(name, own[name], gradient).detach()
    found = method.fit(clip64, data, torch.Generator().manual_seed(3)).trained
    for name, expected in own.items():
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-8, atol=1e-10)


def test_kdpl_s_step_follows_the_divergences_from_its_teacher(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    data, teacher, images = add_teacher(clip64, labels, FEATURES)
    method = KDPL(KDPL.Config(recipe=Recipe(warmup_epochs=0, lr=0.1), max_steps=1))
    context = embed(clip64, "a photo of a").clone().requires_grad_()
    texts = encode_contexts(clip64, labels.names, context)
    q = cosine_logits(clip64, texts, clip64.model.visual(images)).softmax(1)  # type: ignore[operator]
    cosines = unit(teacher.model.visual(images)) @ unit_texts(teacher, labels).T  # type: ignore[operator]
    p = (scale_of(clip64) * cosines).softmax(1)
    loss = (divergence(p, q) + divergence(q, p)) / 2 / len(images)
    [gradient] = torch.autograd.grad(loss, [context])
    unknown = replace(data, train=replace(data.train, targets=torch.zeros_like(data.train.targets)))
    for given in (data, unknown):
        found = method.fit(clip64, given, torch.Generator().manual_seed(3))["context"]
        expected = descend("context", context, gradient).detach()
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


def test_promptkd_s_step_follows_its_tuned_teacher(
    float64: None, clip64: Backbone, labels: Labels
) -> None:
    recipe = Recipe(warmup_epochs=0, lr=0.1)
    method = PromptKD(PromptKD.Config(recipe=recipe, teacher_recipe=recipe, weight=10, max_steps=2))
    data, teacher, images = add_teacher(clip64, labels, method.image_input(clip64))
    found = method.fit(clip64, data, torch.Generator().manual_seed(3))

    rng = torch.Generator().manual_seed(3)
    tuned = PromptSRC(PromptSRC.Config(recipe=recipe, max_steps=1))
    assert data.teacher is not None
    of_teacher = tuned.fit(teacher, data.teacher.data, rng).trained
    features, texts = prompted(teacher, labels, of_teacher, images)
    p = cosine_logits(teacher, texts, features).softmax(1)
    own = {name: x.requires_grad_() for name, x in method.init(clip64, data, rng).trained.items()}

    def student(own: Tensors, mean: Tensor | None = None, variance: Tensor | None = None) -> Any:
        features = run_image_tower(clip64.model.visual, images, list(own["image_prompts"]))
        hidden = features @ own["down"].T + own["down_bias"]
        mean = hidden.mean(0) if mean is None else mean
        variance = hidden.var(0, correction=0) if variance is None else variance
        normed = (hidden - mean) / (variance + 1e-5).sqrt() * own["gain"] + own["shift"]
        projected = normed.clamp(min=0) @ own["up"].T + own["up_bias"]
        return hidden, cosine_logits(clip64, texts, projected)

    hidden, logits = student(own)
    loss = 10 * divergence(p, logits.softmax(1)) / logits.numel()
    gradients = torch.autograd.grad(loss, [*own.values()])
    for (name, x), gradient in zip(own.items(), gradients, strict=True):
        assert gradient.abs().max() > 1e-6 or name == "down_bias", name
        expected = descend(name, x, gradient).detach()
        torch.testing.assert_close(found.trained[name], expected, rtol=1e-8, atol=1e-9)
    kept = {"mean": 0.1 * hidden.mean(0), "variance": 0.9 + 0.1 * hidden.var(0)}
    kept["texts"] = unit(texts)
    for name, expected in kept.items():
        torch.testing.assert_close(found.stored[name], expected, rtol=1e-9, atol=1e-9)
    given = clip64.encode_images(images, method.image_input(clip64))
    answered = method.attach(found, clip64, labels)(given)
    _, expected = student(found.trained, found["mean"], found["variance"])
    torch.testing.assert_close(answered, expected, rtol=1e-9, atol=1e-9)


def test_promptkd_s_classes_are_its_teacher_s(clip: Backbone, labels: Labels) -> None:
    module = Module({}, {"texts": torch.zeros(4, 24)})
    with pytest.raises(NotTransferable, match="a number of classes of 4, not 5"):
        PromptKD().attach(module, clip, labels)


def test_plot_pp_refuses_a_phrase_shorter_than_the_first(clip: Backbone, data: FewShotData) -> None:
    method = PLOTPlusPlus(PLOTPlusPlus.Config(phrases=("a photo of a", "this is a")))
    with pytest.raises(CompatbenchError, match="'this is a' is 3 tokens, fewer than the first"):
        method.init(clip, data, torch.Generator())


def test_tokens_are_put_into_causal_text_towers_alone(clip: Backbone, data: FewShotData) -> None:
    module = MMRL().init(clip, data, torch.Generator())
    both_ways = wrap(tiny_clip(no_causal_mask=True), "both-ways")
    with pytest.raises(NotTransferable, match="a causal text tower"):
        MMRL().attach(module, both_ways, data.labels)
