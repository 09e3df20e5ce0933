"""CoOp: X_c = [SOS, v, E(name_c), E("."), EOT]; z = s · cos(f, Text(X_c))."""

from __future__ import annotations

import pytest
import torch
from open_clip_reference import encode_contexts, encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.methods.coop import CoOp


def naive_logits(backbone: Backbone, labels: Labels, context: Tensor, images: Tensor) -> Tensor:
    scale = backbone.model.logit_scale.exp()  # type: ignore[operator, union-attr]
    texts = encode_contexts(backbone, labels.names, context)
    rows = [[scale * f.dot(t) / (f.norm() * t.norm()) for t in texts] for f in images]
    return torch.stack([torch.stack(row) for row in rows])


@pytest.mark.parametrize("length", [1, 4, 16])
def test_logits_equal_the_formula(
    backbone64: Backbone, labels: Labels, images64: Tensor, length: int
) -> None:
    context = 0.3 * torch.randn(length, 32, generator=torch.Generator().manual_seed(1)).double()
    logits = CoOp().attach(Module({"context": context}), backbone64, labels)(images64)
    expected = naive_logits(backbone64, labels, context, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    recipe = CoOp.Config().recipe.model_copy(update={"warmup_epochs": 0, "lr": 0.1})
    method = CoOp(CoOp.Config(recipe=recipe, max_steps=1))
    found = method.fit(clip64, data64, torch.Generator().manual_seed(3))["context"]

    start = 0.02 * torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
    start.requires_grad_()
    logits = naive_logits(clip64, data64.labels, start, data64.train.views[0])
    losses = [-row.log_softmax(0)[y] for row, y in zip(logits, data64.train.targets, strict=True)]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), start)
    expected = start - 0.1 * (gradient + 5e-4 * start)
    assert (found - start).abs().max() > 1e-3
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-11)


def test_the_first_step_in_single_precision(clip: Backbone, data: FewShotData) -> None:
    recipe = CoOp.Config().recipe.model_copy(update={"warmup_epochs": 0, "lr": 0.1})
    method = CoOp(CoOp.Config(recipe=recipe, max_steps=1))
    found = method.fit(clip, data, torch.Generator().manual_seed(3))["context"]

    start = 0.02 * torch.randn(16, 32, generator=torch.Generator().manual_seed(3))
    start.requires_grad_()
    logits = naive_logits(clip, data.labels, start, data.train.views[0])
    losses = [-row.log_softmax(0)[y] for row, y in zip(logits, data.train.targets, strict=True)]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), start)
    expected = (start - 0.1 * (gradient + 5e-4 * start)).detach()
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_context_is_drawn_from_a_narrow_normal(b16_sized: Backbone, data: FewShotData) -> None:
    context = CoOp().init(b16_sized, data, torch.Generator().manual_seed(0))["context"]
    assert context.shape == (16, 512)
    assert context.std() == pytest.approx(0.02, rel=0.03)
    assert abs(context.mean()) < 0.001


def test_the_module_is_the_context_alone(clip: Backbone, data: FewShotData) -> None:
    module = CoOp(CoOp.Config(max_steps=1)).fit(clip, data, torch.Generator())
    assert set(module.trained) == {"context"}
    assert module.stored == {}
    assert module.parameters == 16 * 32


def test_parameters_at_vit_b_16(b16_sized: Backbone, data: FewShotData) -> None:
    assert CoOp().init(b16_sized, data, torch.Generator()).parameters == 8192
    four = CoOp(CoOp.Config(context_length=4))
    assert four.init(b16_sized, data, torch.Generator()).parameters == 2048


def test_the_words_of_a_template_as_context_are_that_template(
    backbone64: Backbone, labels: Labels, images64: Tensor
) -> None:
    words = backbone64.embed_text("a photo of a")
    logits = CoOp().attach(Module({"context": words}), backbone64, labels)(images64)
    texts = encode_texts(backbone64, [f"a photo of a {name}." for name in labels.names])
    texts = texts / texts.norm(dim=-1, keepdim=True)
    expected = images64 / images64.norm(dim=-1, keepdim=True) @ texts.T * backbone64.logit_scale
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_other_classes_can_be_named_when_a_module_is_attached(
    clip64: Backbone, images64: Tensor
) -> None:
    context = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).double()
    labels = Labels(("boat", "fire engine", "cat"), ("{}",), "{}")
    logits = CoOp().attach(Module({"context": context}), clip64, labels)(images64)
    expected = naive_logits(clip64, labels, context, images64)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-10)


def test_defaults_are_the_published_recipe() -> None:
    recipe = CoOp.Config().recipe
    assert CoOp.Config().context_length == 16
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.weight_decay) == (
        "sgd",
        2e-3,
        0.9,
        5e-4,
    )
    assert (recipe.batch_size, recipe.warmup_epochs, recipe.warmup_lr) == (32, 1, 1e-5)
    assert [recipe.epochs_for(k) for k in (1, 2, 4, 8, 16)] == [50, 100, 100, 200, 200]
