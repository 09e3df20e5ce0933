"""Answers image by image, in batches that fit the memory budget; how prompts differ."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from compatbench.backbone import memory_budget
from compatbench.backbone.device import PeakBytes
from compatbench.engine.predict import (
    MAX_BATCH_BYTES,
    batch_size,
    predict,
    prompt_diversity,
    run_classifier,
)


def test_a_batch_fits_the_budget_and_all_images_are_one_where_they_fit() -> None:
    """As CoCoOp's, whose images have class weights each: [batch, classes, e]."""
    draw = torch.Generator().manual_seed(1)
    images, weights = torch.randn(300, 8, generator=draw), torch.randn(50, 8, generator=draw)
    asked: list[int] = []

    def classify(features: Tensor) -> Tensor:
        asked.append(len(features))
        return (features[:, None] * weights).sum(-1)

    whole = run_classifier(classify, images)
    assert asked == [8, 300]
    assert torch.equal(whole, classify(images))
    budget, each = 2**16, 50 * 8 * 4 + 50 * 4 + 8 * 4
    asked.clear()
    with memory_budget(budget), PeakBytes() as peak:
        assert torch.equal(run_classifier(classify, images), whole)
    size = max(asked[1:])
    assert size * each <= budget < 4 * size * each
    assert sum(asked[1:]) == 300
    assert peak.peak <= budget + 2 * whole.nbytes + images.nbytes


def test_classifiers_of_imagenet_s_size_are_bounded() -> None:
    """Tip-Adapter-F's 16 shots of 1,000 classes, and CoCoOp's texts, over 50,000 images."""

    def cache(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 16_000).exp()[:, :1000]

    def texts(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 1000, 512).relu()[..., 0]

    for answer, each in ((cache, 2 * 16_000 * 4), (texts, 2 * 512_000 * 4)):
        size = batch_size(answer, 50_000)
        assert MAX_BATCH_BYTES / 4 < size * each <= MAX_BATCH_BYTES


def test_predictions_are_the_largest_logit_and_its_probability() -> None:
    found = predict(torch.tensor([[-2.0, -1.0], [-1.0, 0.0], [2.0, 0.0]]))
    assert found.classes.tolist() == [1, 1, 0]
    confidence = [0.731059, 0.731059, 0.880797]
    assert found.confidence.tolist() == pytest.approx(confidence, abs=2.5e-4)


def test_prompt_diversity_against_a_naive_loop() -> None:
    contexts = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    pairs = [
        1 - float(v[i].dot(v[j]) / (v[i].norm() * v[j].norm()))
        for v in contexts
        for i in range(4)
        for j in range(i)
    ]
    assert prompt_diversity(contexts) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert prompt_diversity(torch.ones(4, 6)) == pytest.approx(0, abs=1e-9)
    assert prompt_diversity(torch.eye(4)) == pytest.approx(1)
    assert prompt_diversity(torch.ones(1, 6)) is prompt_diversity(None) is None
