"""Compare text features of learned prompts with CoOp's way, 77 tokens for every class.

python benchmark/speed/text.py    # about ten minutes on an idle machine; writes text.json

Times are CPU seconds of one thread. Both ways must give the same numbers, and each case must be as
much faster as the project promises; otherwise the program stops and writes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from workload import (
    CONTEXT,
    Workload,
    cross_entropy,
    labels_of,
    make_small,
    make_workload,
    matmul_rate,
    read_names,
    relative_error,
    stock_products,
    time_best,
)

from compatbench.engine.cell import provenance

RESULTS = Path(__file__).with_name("text.json")
Compute = Callable[[], Sequence[Tensor]]

# By dataset: the rounds of our way and of the plain one, and the least speed-up.
DATASETS = {
    "eurosat": ((15, 3), 8),
    "dtd": ((10, 2), 14),
    "caltech101": ((5, 1), 14),
    "sun397": ((3, 1), 14),
    "imagenet": ((3, 1), 14),
}


def compare(
    title: str,
    fast: Compute,
    plain: Compute,
    rounds: tuple[int, int],
    least: float,
    most_error: float = 1e-5,
    images: int = 1,
    **about: object,
) -> dict[str, Any]:
    """Time both ways, and return what the page shows of them.

    Args:
        rounds: of ours and of the plain one; the best counts.
        least: the smallest speed-up that is accepted.
        most_error: the largest difference, in parts of the largest value.
        images: those that ``fast`` computes where ``plain`` computes one.
        about: what else is noted of the case.
    """
    fast()  # what is computed once is there then
    seconds, computed = time_best(fast, rounds[0])
    with stock_products():
        plain_seconds, expected = time_best(plain, rounds[1])
    seconds /= images
    speed_up = plain_seconds / seconds
    error = max(relative_error(*pair) for pair in zip(computed, expected, strict=True))
    if error > most_error:
        sys.exit(f"{title}: both ways differ by {error:.0e} of the largest value")
    if speed_up < least:
        sys.exit(f"{title}: {speed_up:.1f} times faster, {least} were promised")
    measured = {"plain_seconds": plain_seconds, "seconds": seconds}
    return {"title": title} | about | measured | {"speed_up": speed_up, "error": error}


def compare_passes(
    title: str,
    workload: Workload,
    names: tuple[str, ...],
    rounds: tuple[int, int],
    least: float,
    **about: object,
) -> dict[str, Any]:
    """Compare forward and backward pass of a context that all classes share."""
    context = workload.draw_context(CONTEXT)
    fast = partial(workload.fast_pass, names, context)
    plain = partial(workload.plain_pass, names, context)
    return compare(title, fast, plain, rounds, least, **about, classes=len(names))


def compare_coop_step(workload: Workload) -> dict[str, Any]:
    """Compare a step of CoOp with cached features with one that encodes its 32 images."""
    names = read_names("dtd")
    context = workload.draw_context(CONTEXT)
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(32, 3, 224, 224, generator=generator)
    targets = torch.randint(len(names), (32,), generator=generator)
    backbone = workload.backbone
    cached = backbone.encode_images(pixels)
    scale = backbone.logit_scale

    def fast() -> Sequence[Tensor]:
        prompts = backbone.prompts(labels_of(names), context)
        loss = cross_entropy(cached, backbone.encode_prompts(prompts), targets, scale)
        return torch.autograd.grad(loss, context)

    def plain() -> Sequence[Tensor]:
        with torch.no_grad():
            images = backbone.model.encode_image(pixels)  # type: ignore[operator]
        loss = cross_entropy(images, workload.plain_features(names, context), targets, scale)
        return torch.autograd.grad(loss, context)

    title = "a CoOp step, batch 32 (plain: images encoded each step)"
    # The softmax of logits of size 100 enlarges what rounding leaves.
    return compare(title, fast, plain, (10, 1), 30, most_error=1e-4, classes=len(names))


def compare_cocoop_image(workload: Workload) -> dict[str, Any]:
    """Compare CoCoOp's prompts, one context per image: four images at once against one."""
    names = read_names("dtd")
    contexts = workload.draw_context(4, 4)
    weights = workload.draw_weights(len(names))
    backbone = workload.backbone

    def fast() -> Sequence[Tensor]:
        features = backbone.encode_prompts(backbone.image_prompts(labels_of(names), contexts))
        (gradient,) = torch.autograd.grad((features * weights).sum(), contexts)
        return features[0].detach(), gradient[0]

    def plain() -> Sequence[Tensor]:
        return workload.plain_pass(names, contexts.detach()[0].requires_grad_())

    title = "CoCoOp, forward and backward, one image"
    return compare(title, fast, plain, (3, 1), 14, images=4, classes=len(names))


def compare_all() -> Iterator[dict[str, Any]]:
    """Yield every case of the page."""
    workload = make_workload()
    for dataset, (rounds, least) in DATASETS.items():
        title = f"{dataset}, forward and backward"
        names = read_names(dataset)
        yield compare_passes(title, workload, names, rounds, least, dataset=dataset)
    yield compare_coop_step(workload)
    yield compare_cocoop_image(workload)
    # The text tower of the mini suite's size, where calls weigh more than products.
    small = make_small("small", 128, 192, heads=3, layers=6)
    title = "a small tower: width 192, 6 blocks"
    yield compare_passes(title, small, read_names("dtd")[:40], (100, 5), 10)


def main() -> None:
    torch.set_num_threads(1)
    machine = {
        "processor": provenance()["processor"],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "matmul_gflops": round(matmul_rate() / 1e9, 1),
    }
    cases = []
    for case in compare_all():
        print(case, flush=True)
        cases.append(case)
    text = json.dumps({"machine": machine, "cases": cases}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
