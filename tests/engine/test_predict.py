"""Predictions in batches that fit the memory budget, and the diversity of prompts."""

from __future__ import annotations

from itertools import combinations

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
    """Classify as CoCoOp does, which has class weights for each image: [batch, classes, e]."""
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(300, 8, generator=draw)
    weights = torch.randn(50, 8, generator=draw)
    batches: list[int] = []

    def classify(features: Tensor) -> Tensor:
        batches.append(len(features))
        return (features[:, None] * weights).sum(-1)

    whole = run_classifier(classify, images)
    assert batches == [8, 300]  # first a few, to measure the memory of an image
    assert torch.equal(whole, classify(images))
    budget = 2**16
    image_bytes = 50 * 8 * 4 + 50 * 4 + 8 * 4
    batches.clear()
    with memory_budget(budget), PeakBytes() as peak:
        assert torch.equal(run_classifier(classify, images), whole)
    size = max(batches[1:])
    assert size * image_bytes <= budget < 4 * size * image_bytes
    assert sum(batches[1:]) == 300
    assert peak.peak <= budget + 2 * whole.nbytes + images.nbytes


def test_classifiers_of_the_size_of_imagenet_are_bounded() -> None:
    """Tip-Adapter-F's 16 shots of 1,000 classes, and CoCoOp's texts, over 50,000 images."""

    def cache(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 16_000).exp()[:, :1000]

    def texts(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 1000, 512).relu()[..., 0]

    for answer, image_bytes in ((cache, 2 * 16_000 * 4), (texts, 2 * 512_000 * 4)):
        size = batch_size(answer, 50_000)
        assert MAX_BATCH_BYTES / 4 < size * image_bytes <= MAX_BATCH_BYTES


def test_predictions_are_the_largest_logit_and_its_probability() -> None:
    found = predict(torch.tensor([[-2.0, -1.0], [-1.0, 0.0], [2.0, 0.0]]))
    assert found.classes.tolist() == [1, 1, 0]
    confidence = [0.731059, 0.731059, 0.880797]
    assert found.confidence.tolist() == pytest.approx(confidence, abs=2.5e-4)


def test_prompt_diversity_against_a_naive_loop() -> None:
    contexts = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0)) + 0.5
    distances = []
    for vectors in contexts:
        for one, other in combinations(vectors, 2):
            distances.append(1 - float(one.dot(other) / (one.norm() * other.norm())))
    expected = sum(distances) / len(distances)
    assert prompt_diversity(contexts) == pytest.approx(expected, abs=1e-6)
    assert prompt_diversity(torch.ones(4, 6)) == pytest.approx(0, abs=1e-9)
    assert prompt_diversity(torch.eye(4)) == pytest.approx(1)
    assert prompt_diversity(torch.ones(1, 6)) is prompt_diversity(None) is None
