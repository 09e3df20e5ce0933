"""Text features of learned prompts, forward and backward, against 77 tokens for every class."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import pytest
import torch
from workload import (
    CONTEXT,
    Workload,
    cross_entropy,
    labels_of,
    make_small,
    read_names,
    relative_error,
    stock_products,
    time_best,
)

pytestmark = pytest.mark.benchmark(timer=time.process_time, disable_gc=True)

# Rounds of our way, of the plain one, and the least ratio of their CPU times.
CASES = {
    "eurosat": ((15, 3), 8),
    "dtd": ((10, 2), 14),
    "caltech101": ((5, 1), 14),
    "sun397": ((3, 1), 14),
    "imagenet": ((3, 1), 14),
}


def compare(
    benchmark: Any,
    fast: Any,
    plain: Any,
    rounds: tuple[int, int],
    least: float,
    most_error: float = 1e-5,
    images: int = 1,
    **facts: object,
) -> None:
    """Times both, ``rounds`` each; they must agree, and the ratio of times be large.

    ``images`` are those that ``fast`` computes where ``plain`` has one. The JSON holds seconds,
    ratio and errors.
    """
    computed = benchmark.pedantic(fast, rounds=rounds[0], iterations=1, warmup_rounds=1)
    with stock_products():
        seconds, expected = time_best(plain, rounds[1])
    ratio = images * seconds / benchmark.stats.stats.min
    errors = [relative_error(*pair) for pair in zip(computed, expected, strict=True)]
    facts |= dict(plain_seconds=seconds, ratio=ratio, relative_errors=errors, images=images)
    benchmark.extra_info.update(facts)
    assert max(errors) < most_error
    assert ratio > least


def both_passes(workload: Workload, names: tuple[str, ...]) -> tuple[Any, Any]:
    """Forward and backward by compatbench, and at 77 tokens."""
    given = names, workload.draw_context(CONTEXT)
    return partial(workload.fast_pass, *given), partial(workload.plain_pass, *given)


@pytest.mark.parametrize("dataset", CASES)
def test_forward_and_backward(benchmark: Any, b16: Workload, dataset: str) -> None:
    rounds, least = CASES[dataset]
    names = read_names(dataset)
    compare(benchmark, *both_passes(b16, names), rounds, least, classes=len(names), dataset=dataset)


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

    # The softmax of logits of size 100 enlarges what rounding leaves.
    compare(benchmark, fast, plain, (10, 1), 30, most_error=1e-4, classes=len(names))


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

    compare(benchmark, fast, plain, (3, 1), 14, images=4, classes=len(names))


def test_small_tower(benchmark: Any) -> None:
    """The text tower of the mini suite's size, where calls weigh more than products."""
    tower, names = make_small("small", 128, 192, heads=3, layers=6), read_names("dtd")[:40]
    compare(benchmark, *both_passes(tower, names), (100, 5), 10, classes=len(names))
