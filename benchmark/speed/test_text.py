"""Compare text features of learned prompts with CoOp's, which have 77 tokens for every class.

    pytest benchmark/speed/test_text.py --benchmark-json=benchmark/speed/text.json

takes about ten minutes on an idle machine. Times are CPU seconds of one thread. Both must give
the same numbers, and each case must be as much faster as the project promises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from workload import (
    CONTEXT,
    Workload,
    cross_entropy,
    labels_of,
    make_small,
    read_names,
    relative_error,
    time_best,
)

pytestmark = pytest.mark.benchmark(timer=time.process_time, disable_gc=True)

Compute = Callable[[], Sequence[Tensor]]

# By dataset: the rounds of our code and of the plain code, and the smallest accepted speed-up.
DATASETS = {
    "eurosat": ((15, 3), 8),
    "dtd": ((10, 2), 14),
    "caltech101": ((5, 1), 14),
    "sun397": ((3, 1), 14),
    "imagenet": ((3, 1), 14),
}


def compare(
    benchmark: Any,
    title: str,
    fast: Compute,
    plain: Compute,
    rounds: tuple[int, int],
    min_speed_up: float,
    max_error: float = 1e-5,
    images: int = 1,
    **about: object,
) -> None:
    """Time both computations, check them, and note the numbers of the page.

    Args:
        title: what the page calls the case.
        rounds: of ours and of the plain one; the best counts.
        min_speed_up: the smallest accepted speed-up.
        max_error: the largest accepted difference, in parts of the largest value.
        images: those that ``fast`` computes where ``plain`` computes one.
        about: what else is noted of the case.
    """
    # The first round is not timed: what is computed once is there afterwards.
    computed = benchmark.pedantic(fast, rounds=rounds[0], iterations=1, warmup_rounds=1)
    plain_seconds, expected = time_best(plain, rounds[1])
    seconds = benchmark.stats.stats.min / images
    speed_up = plain_seconds / seconds
    error = max(relative_error(*pair) for pair in zip(computed, expected, strict=True))
    benchmark.extra_info.update(
        {"title": title}
        | about
        | {"plain_seconds": plain_seconds, "seconds": seconds}
        | {"speed_up": speed_up, "error": error}
    )
    assert error < max_error
    assert speed_up > min_speed_up


def compare_passes(
    benchmark: Any,
    title: str,
    workload: Workload,
    names: tuple[str, ...],
    rounds: tuple[int, int],
    min_speed_up: float,
) -> None:
    """Compare forward and backward pass of a context that all classes share."""
    context = workload.draw_context(CONTEXT)
    fast = partial(workload.fast_pass, names, context)
    plain = partial(workload.plain_pass, names, context)
    compare(benchmark, title, fast, plain, rounds, min_speed_up, classes=len(names))


@pytest.mark.parametrize("dataset", DATASETS)
def test_forward_and_backward(benchmark: Any, b16: Workload, dataset: str) -> None:
    rounds, min_speed_up = DATASETS[dataset]
    title = f"{dataset}, forward and backward"
    names = read_names(dataset)
    benchmark.extra_info["dataset"] = dataset
    compare_passes(benchmark, title, b16, names, rounds, min_speed_up)


def test_coop_step(benchmark: Any, b16: Workload) -> None:
    """Compare a step of CoOp with cached features with one that encodes its 32 images."""
    names = read_names("dtd")
    context = b16.draw_context(CONTEXT)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(32, 3, 224, 224, generator=generator)
    targets = torch.randint(len(names), (32,), generator=generator)
    backbone = b16.backbone
    cached = backbone.encode_images(pixels)
    scale = backbone.logit_scale

    def fast() -> Sequence[Tensor]:
        prompts = backbone.prompts(labels_of(names), context)
        loss = cross_entropy(cached, backbone.encode_prompts(prompts), targets, scale)
        return torch.autograd.grad(loss, context)

    def plain() -> Sequence[Tensor]:
        with torch.no_grad():
            images = backbone.model.encode_image(pixels)  # type: ignore[operator]
        loss = cross_entropy(images, b16.plain_features(names, context), targets, scale)
        return torch.autograd.grad(loss, context)

    title = "a CoOp step, batch 32 (plain: images encoded each step)"
    # The softmax of logits of size 100 enlarges what rounding leaves.
    compare(benchmark, title, fast, plain, (10, 1), 30, max_error=1e-4, classes=len(names))


def test_cocoop_image(benchmark: Any, b16: Workload) -> None:
    """Compare CoCoOp's prompts, one context per image: four images at once against one."""
    names = read_names("dtd")
    contexts = b16.draw_context(4, 4)
    weights = b16.draw_weights(len(names))
    backbone = b16.backbone

    def fast() -> Sequence[Tensor]:
        features = backbone.encode_prompts(backbone.image_prompts(labels_of(names), contexts))
        (gradient,) = torch.autograd.grad((features * weights).sum(), contexts)
        return features[0].detach(), gradient[0]

    def plain() -> Sequence[Tensor]:
        return b16.plain_pass(names, contexts.detach()[0].requires_grad_())

    title = "CoCoOp, forward and backward, one image"
    compare(benchmark, title, fast, plain, (3, 1), 14, images=4, classes=len(names))


def test_small_tower(benchmark: Any) -> None:
    """Compare at the size of the mini suite, where calls weigh more than products."""
    small = make_small("small", 128, 192, heads=3, layers=6)
    title = "a small tower: width 192, 6 blocks"
    compare_passes(benchmark, title, small, read_names("dtd")[:40], (100, 5), 10)
