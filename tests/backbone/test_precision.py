"""Towers in bfloat16: how far features and accuracies move, and what stays float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from compatbench.backbone import Backbone, load_backbone
from compatbench.data.feature_cache import FeatureCache
from compatbench.data.task import load_task

TASK = "mini-weather"


@pytest.fixture(scope="module", params=["mini-clip", "mini-eva-clip"])
def pair(request: pytest.FixtureRequest) -> tuple[Backbone, Backbone]:
    return load_backbone(request.param), load_backbone(request.param, precision="bf16")


def test_what_leaves_the_towers_is_float32(pair: tuple[Backbone, Backbone]) -> None:
    full, low = pair
    labels = load_task(TASK).labels
    context = torch.zeros(4, low.token_width, requires_grad=True)
    weights = {n: w.float().requires_grad_() for n, w in low.text.weights.items() if "bias" in n}
    features = low.encode_prompts(low.prompts(labels, context), weights)
    features.square().sum().backward()
    assert context.grad is not None
    assert bool(torch.isfinite(context.grad).all())
    for weight in weights.values():
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
    images = low.encode_images(torch.zeros(1, 3, 48, 48))
    for tensor in (features, context.grad, images, low.embed_text("rain"), low.zero_shot(labels)):
        assert tensor.dtype == torch.float32
    assert low.dtype == torch.bfloat16
    assert low.logit_scale == full.logit_scale


@pytest.mark.slow
def test_features_and_accuracy_hardly_move(
    pair: tuple[Backbone, Backbone], tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    task = load_task(TASK)
    samples = list(task.split("test"))
    targets = torch.tensor([sample.label for sample in samples])
    cache = FeatureCache(tmp_path)
    images = [cache.features(backbone, task, samples) for backbone in pair]
    texts = [backbone.zero_shot(task.labels) for backbone in pair]
    cosines = [F.cosine_similarity(*both).min().item() for both in (images, texts)]
    accuracies = [
        100 * (image @ text.T).argmax(-1).eq(targets).float().mean().item()
        for image, text in zip(images, texts, strict=True)
    ]
    record_property("lowest cosine of image and text features", cosines)
    record_property("zero-shot accuracy in fp32 and bf16", accuracies)
    assert min(cosines) > 0.99
    assert abs(accuracies[0] - accuracies[1]) < 2
