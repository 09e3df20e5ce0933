"""TCP: before a late block, the context rows of class c become W₂ q(W₁ t⁰_c + b₁) + b₂."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy, mean_cosine
from open_clip_reference import encode_contexts, encode_texts
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import FewShotData, Module
from compatbench.method.trained import Batch
from compatbench.methods.tcp import TCP

SHAPES = {
    "down": (4, 16),
    "down_bias": (4,),
    "up": (128, 4),
    "up_bias": (128,),
    "context": (4, 32),
}


def random_module(dtype: torch.dtype = torch.float64) -> Module:
    generator = torch.Generator().manual_seed(1)
    return Module(
        {n: 0.3 * torch.randn(s, generator=generator).to(dtype) for n, s in SHAPES.items()}
    )


def teacher(backbone: Backbone, labels: Labels) -> Tensor:
    return encode_texts(backbone, [labels.teacher_template.format(n) for n in labels.names])


def naive_texts(
    backbone: Backbone, labels: Labels, parameters: dict[str, Tensor], block: int = 2
) -> Tensor:
    """All rows of the context, padded, with rows 1 to 4 overwritten before the block."""
    tower: Any = getattr(backbone.model, "text", backbone.model)
    tail = labels.teacher_template.split("{}")[1]
    ids = backbone.tokenizer([f"X X X X {name}{tail}" for name in labels.names])
    words = tower.token_embedding(ids)
    shared = parameters["context"].expand(len(ids), -1, -1)
    x = torch.cat([words[:, :1], shared, words[:, 5:]], dim=1) + tower.positional_embedding
    for i, layer in enumerate(tower.transformer.resblocks):
        if i == block:
            rows = []
            for t in teacher(backbone, labels):
                u = parameters["down"] @ (t / t.norm()) + parameters["down_bias"]
                hidden = u * torch.sigmoid(1.702 * u)
                rows.append((parameters["up"] @ hidden + parameters["up_bias"]).reshape(4, 32))
            x = torch.cat([x[:, :1], torch.stack(rows), x[:, 5:]], dim=1)
        x = layer(x, attn_mask=tower.attn_mask)
    x = tower.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)]
    return x @ tower.text_projection


def naive_loss(
    backbone: Backbone,
    labels: Labels,
    parameters: dict[str, Tensor],
    images: Tensor,
    targets: Tensor,
) -> Tensor:
    texts = naive_texts(backbone, labels, parameters)
    entropy = cross_entropy(cosine_logits(backbone, texts, images), targets)
    return entropy + 8.0 * (1 - mean_cosine(texts, teacher(backbone, labels)))


@pytest.mark.parametrize("template", ["a {}.", "a photo of a {}, a type of thing."])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, template: str
) -> None:
    labels = dataclasses.replace(labels, teacher_template=template)
    module = random_module()
    logits = TCP().attach(module, backbone64, labels)(images64)
    texts = naive_texts(backbone64, labels, module.trained)
    expected = cosine_logits(backbone64, texts, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("layers", "block"), [(2, 1), (5, 3), (6, 4), (12, 8)])
def test_the_block_lies_at_two_thirds_of_the_depth(
    labels: Labels, images64: Tensor, layers: int, block: int
) -> None:
    backbone = wrap(tiny_clip(layers=layers).double(), "deep")
    module = random_module()
    logits = TCP().attach(module, backbone, labels)(images64)
    texts = naive_texts(backbone, labels, module.trained, block)
    expected = cosine_logits(backbone, texts, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_the_loss_equals_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    module, features, targets = random_module(), data64.train.plain, data64.train.targets
    classifier = TCP().attach(module, backbone64, data64.labels)
    found = TCP().loss(classifier, Batch(features, targets, backbone64, data64.labels))
    expected = naive_loss(backbone64, data64.labels, module.trained, features, targets)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    """Adam's first step with coupled weight decay: lr · g / (|g| + ε), g = ∇L + 5e-4 x."""

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return naive_loss(clip64, data64.labels, parameters, images, targets)

    def update(x: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient + 5e-4 * x
        return x - 2e-3 * gradient / (gradient.abs() + 1e-3)

    check_first_step(TCP, clip64, data64, loss, update, recipe={"warmup_epochs": 0})


def test_without_the_inner_prompts_it_is_coop(
    clip64: Backbone, labels: Labels, images64: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TCP.attach.__globals__, "Swap", lambda block, rows: None)
    labels = dataclasses.replace(labels, teacher_template="a photo of a {}.")
    module = random_module()
    logits = TCP().attach(module, clip64, labels)(images64)
    texts = encode_contexts(clip64, labels.names, module["context"])
    expected = cosine_logits(clip64, texts, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def test_towers_it_has_no_place_in_are_refused(
    b16_sized: Backbone, wider_joint: Backbone, labels: Labels
) -> None:
    module = random_module(torch.float32)
    with pytest.raises(NotTransferable, match="text features of size 16, not 24"):
        TCP().attach(module, wider_joint, labels)
    single = wrap(tiny_clip(layers=1), "single")
    with pytest.raises(NotTransferable, match="a single block"):
        TCP().attach(module, single, labels)
