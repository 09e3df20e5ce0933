"""Text features of learned prompts, forward and backward, against 77 tokens for every class."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from workload import (
    CONTEXT,
    Workload,
    cross_entropy,
    labels_of,
    read_names,
    relative_error,
    time_plain,
    wrap,
)

pytestmark = pytest.mark.benchmark(timer=time.process_time, disable_gc=True)

# Rounds of the plain way, of ours, and the least ratio of their CPU times.
CASES = {
    "eurosat": (3, 15, 8),
    "dtd": (2, 10, 14),
    "caltech101": (1, 5, 14),
    "sun397": (1, 3, 14),
    "imagenet": (1, 3, 14),
}


def compare(
    benchmark: Any, fast: Any, plain: Any, rounds: int, plain_rounds: int, **facts: object
) -> tuple[Any, Any]:
    """Times both in turn; returns what they computed. The JSON holds seconds and ratio."""
    found = benchmark.pedantic(fast, rounds=rounds, iterations=1, warmup_rounds=1)
    seconds, expected = time_plain(plain, plain_rounds)
    ratio = seconds / benchmark.stats.stats.min
    benchmark.extra_info.update(plain_seconds=seconds, ratio=ratio, **facts)
    return found, expected


@pytest.mark.parametrize("dataset", CASES)
def test_forward_and_backward(benchmark: Any, b16: Workload, dataset: str) -> None:
    plain_rounds, rounds, least = CASES[dataset]
    names, context = read_names(dataset), b16.draw_context(CONTEXT)
    found, expected = compare(
        benchmark,
        lambda: b16.fast_pass(names, context),
        lambda: b16.plain_pass(names, context),
        rounds,
        plain_rounds,
        classes=len(names),
        dataset=dataset,
    )
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    benchmark.extra_info["relative_errors"] = errors
    assert max(errors) < 1e-5
    assert benchmark.extra_info["ratio"] > least


def test_coop_step(benchmark: Any, b16: Workload) -> None:
    """One step of CoOp, batch 32: features from the cache, against encoding images each step."""
    names, context = read_names("dtd"), b16.draw_context(CONTEXT)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(32, 3, 224, 224, generator=generator)
    targets = torch.randint(len(names), (32,), generator=generator)
    cached = b16.backbone.encode_images(pixels)
    scale = b16.backbone.logit_scale

    def fast() -> Any:
        prompts = b16.backbone.prompts(labels_of(names), context)
        loss = cross_entropy(cached, b16.backbone.encode_prompts(prompts), targets, scale)
        return torch.autograd.grad(loss, context)

    def plain() -> Any:
        with torch.no_grad():
            images = b16.backbone.model.encode_image(pixels)  # type: ignore[operator]
        loss = cross_entropy(images, b16.plain_features(names, context), targets, scale)
        return torch.autograd.grad(loss, context)

    (found,), (expected,) = compare(benchmark, fast, plain, 10, 1, classes=len(names))
    error = relative_error(found, expected)
    benchmark.extra_info["relative_errors"] = [error]
    assert error < 1e-4  # the softmax of logits of size 100 enlarges what rounding leaves
    assert benchmark.extra_info["ratio"] > 30


def test_cocoop_image(benchmark: Any, b16: Workload) -> None:
    """CoCoOp: a context of its own for every image; four images at once, against one."""
    names, contexts = read_names("dtd"), b16.draw_context(4, 4)
    weights = b16.draw_weights(len(names))

    def fast() -> Any:
        prompts = b16.backbone.image_prompts(labels_of(names), contexts)
        features = b16.backbone.encode_prompts(prompts)
        (gradient,) = torch.autograd.grad((features * weights).sum(), contexts)
        return features[0].detach(), gradient[0]

    def plain() -> Any:
        return b16.plain_pass(names, contexts.detach()[0].requires_grad_())

    found, expected = compare(benchmark, fast, plain, 3, 1, classes=len(names), images=4)
    benchmark.extra_info["ratio"] *= 4
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    benchmark.extra_info["relative_errors"] = errors
    assert max(errors) < 1e-5
    assert benchmark.extra_info["ratio"] > 14


def test_small_tower(benchmark: Any) -> None:
    """The text tower of the mini suite's size, where calls weigh more than products."""
    from open_clip.model import CLIP

    torch.manual_seed(0)
    image = dict(image_size=24, patch_size=12, width=32, head_width=16, layers=1)
    text = dict(context_length=77, vocab_size=49408, width=192, heads=3, layers=6)
    model = CLIP(128, image, text).eval().requires_grad_(False)  # type: ignore[arg-type]
    model.visual.preprocess_cfg = {}  # type: ignore[assignment]
    tower = Workload(wrap(model, "small"))
    names, context = read_names("dtd")[:40], tower.draw_context(CONTEXT)
    found, expected = compare(
        benchmark,
        lambda: tower.fast_pass(names, context),
        lambda: tower.plain_pass(names, context),
        100,
        5,
        classes=len(names),
    )
    errors = [relative_error(*pair) for pair in zip(found, expected, strict=True)]
    benchmark.extra_info["relative_errors"] = errors
    assert max(errors) < 1e-5
    assert benchmark.extra_info["ratio"] > 10
