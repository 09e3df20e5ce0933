"""KgCoOp: CoOp with L = L_ce + λ (1 − mean cos(t_c, t⁰_c)), started at "a photo of a"."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from formulas import check_first_step, cosine_logits, cross_entropy, mean_cosine
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
    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return naive_loss(clip64, data64.labels, parameters["context"], images, targets)

    check_first_step(KgCoOp, clip64, data64, loss)


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
