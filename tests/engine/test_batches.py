"""Images are classified in batches that fit the memory budget, with the same logits."""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.backbone import memory_budget
from compatbench.backbone.device import PeakBytes
from compatbench.engine.predict import MOST, batch_size, run_classifier


def test_bytes_in_use_are_counted_until_they_are_free() -> None:
    given = torch.ones(1000)
    with PeakBytes() as peak:
        first = given + 1
        second = first.view(10, 100).T  # of the same bytes
        third = second.contiguous()
        del first, second
        fourth = third + given.view(100, 10)
    assert len(fourth) == 100
    assert peak.most == 2 * 4000


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
    assert peak.most <= budget + 2 * whole.nbytes + images.nbytes


def test_classifiers_of_imagenet_s_size_are_bounded() -> None:
    """Tip-Adapter-F's 16 shots of 1,000 classes, and CoCoOp's texts, over 50,000 images."""

    def cache(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 16_000).exp()[:, :1000]

    def texts(rows: Tensor) -> Tensor:
        return torch.empty(len(rows), 1000, 512).relu()[..., 0]

    for answer, each in ((cache, 2 * 16_000 * 4), (texts, 2 * 512_000 * 4)):
        size = batch_size(answer, 50_000)
        assert MOST / 4 < size * each <= MOST
