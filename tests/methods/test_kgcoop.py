"""KgCoOp: CoOp with L = L_ce + λ (1 − mean cos(t_c, t⁰_c)), started at "a photo of a"."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from formulas import cosine_logits, cross_entropy, mean_cosine
from open_clip_reference import encode_contexts, encode_texts
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Module
from compatbench.method.trained import Batch
from compatbench.methods._shared.prompts import teacher_distance
from compatbench.methods.kgcoop import KgCoOp


def naive_loss(
    backbone: Backbone, labels: Labels, context: Tensor, images: Tensor, targets: Tensor
) -> Tensor:
    texts = encode_contexts(backbone, labels.names, context)
    entropy = cross_entropy(cosine_logits(backbone, texts, images), targets)
    teacher = [f"a photo of a {name}, a type of thing." for name in labels.names]
    return entropy + 8.0 * (1 - mean_cosine(texts, encode_texts(backbone, teacher)))


def test_the_loss_equals_the_formula(
    float64: None, backbone64: Backbone, data64: FewShotData
) -> None:
    context = torch.randn(4, 32, generator=torch.Generator().manual_seed(1))
    features, targets = data64.train.plain, data64.train.targets
    method = KgCoOp()
    classifier = method.attach(Module({"context": context}), backbone64, data64.labels)
    found = method.loss(classifier, Batch(features, targets, backbone64, data64.labels))
    expected = naive_loss(backbone64, data64.labels, context, features, targets)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_first_step_follows_the_gradient_of_the_formula(
    float64: None, clip64: Backbone, data64: FewShotData
) -> None:
    recipe = KgCoOp.Config().recipe.model_copy(update={"warmup_epochs": 0, "lr": 0.1})
    method = KgCoOp(KgCoOp.Config(recipe=recipe, max_steps=1))
    found = method.fit(clip64, data64, torch.Generator())["context"]

    ids = clip64.tokenizer.encode("a photo of a")
    start = clip64.model.token_embedding.weight[ids].clone().requires_grad_()  # type: ignore[index, union-attr]
    train = data64.train
    loss = naive_loss(clip64, data64.labels, start, train.views[0], train.targets)
    (gradient,) = torch.autograd.grad(loss, start)
    expected = start - 0.1 * (gradient + 5e-4 * start)
    assert (found - start).abs().max() > 1e-3
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-11)


def test_the_context_starts_at_the_words_whatever_the_seed(
    clip: Backbone, data: FewShotData
) -> None:
    ids = clip.tokenizer.encode("a photo of a")
    expected = clip.model.token_embedding.weight[ids]  # type: ignore[index, union-attr]
    for seed in (1, 2):
        module = KgCoOp().init(clip, data, torch.Generator().manual_seed(seed))
        assert torch.equal(module["context"], expected)


def test_before_the_first_step_distillation_is_zero_for_that_template(
    clip64: Backbone, data64: FewShotData
) -> None:
    labels = dataclasses.replace(data64.labels, teacher_template="a photo of a {}.")
    module = KgCoOp().init(clip64, data64, torch.Generator())
    classifier = KgCoOp().attach(module, clip64, labels)
    batch = Batch(data64.train.plain, data64.train.targets, clip64, labels)
    assert float(teacher_distance(classifier, batch)) == pytest.approx(0, abs=1e-12)
    other = Batch(data64.train.plain, data64.train.targets, clip64, data64.labels)
    assert float(teacher_distance(classifier, other)) > 1e-4
