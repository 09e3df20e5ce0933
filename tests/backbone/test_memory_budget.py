"""The memory budget only changes which activations are kept for the backward pass.

The results of the text tower stay the same to the last bit, those of the image tower within
rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kinds_of_towers import IMAGE_TOWERS, pixels
from open_clip_reference import draw
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, ImageTower, Prompts, memory_budget
from compatbench.backbone.parts import memory as memory_module
from compatbench.backbone.parts.memory import SelectiveCheckpoint, kept_numbers
from compatbench.backbone.text import causal as causal_module

LENGTHS = (3, 1, 9, 4, 4, 2, 7, 5) * 12


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the smallest chunks, 64 rows: the classes above need several."""
    monkeypatch.setattr(causal_module, "CACHE", 1)


def make_prompts(kind: str) -> tuple[Prompts, list[Tensor]]:
    suffix = draw(len(LENGTHS), 9, 32, seed=1)
    deep = ()
    prefix = draw(5, 32)
    if kind == "images":
        prefix = draw(3, 5, 32)
    if kind == "deep":
        deep = (draw(4, 32, seed=2), draw(2, 32, seed=3))
    return Prompts(prefix, suffix, LENGTHS, deep), [prefix, suffix, *deep]


def run(backbone: Backbone, kind: str, budget: int | None) -> list[Tensor]:
    prompts, inputs = make_prompts(kind)
    with memory_budget(budget):
        features = backbone.encode_prompts(prompts)
        weight = draw(*features.shape, seed=4).detach()
        loss = (weight * features).sin().sum()
        # ProGrad computes the gradients of two losses over the same features.
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
        return [features.detach(), *gradients, *torch.autograd.grad(loss, inputs)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("kind", "whole"), [("shared", False), ("deep", False), ("images", False), ("deep", True)]
)
def test_tight_memory_budget_gives_the_same_bits(kind: str, whole: bool) -> None:
    backbone = wrap(tiny_clip(no_causal_mask=whole).double(), "tiny")
    everything = run(backbone, kind, 10**12)
    for budget in (0, 3_000_000):
        assert all(map(torch.equal, run(backbone, kind, budget), everything))


def bytes_kept(encode: Callable[[], Tensor], backbone: Backbone) -> int:
    """Return the bytes of the tensors that autograd holds, without weights."""
    weights = {p.untyped_storage().data_ptr() for p in backbone.model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        features = encode()
    assert features.requires_grad
    return sum(kept.values())


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["shared", "images"])
def test_memory_estimate_is_close_and_a_budget_of_zero_keeps_almost_nothing(
    clip: Backbone, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = make_prompts(kind)[0].to(torch.float32)
    estimates: list[int] = []

    def note(sizes: list[int], device: torch.device, _: bool) -> SelectiveCheckpoint:
        estimates.append(sum(sizes))
        return SelectiveCheckpoint(sizes, device, learned=False)

    with monkeypatch.context() as patch:
        patch.setattr(causal_module, "SelectiveCheckpoint", note)
        kept = bytes_kept(lambda: clip.encode_prompts(prompts), clip)
    assert 0.75 < kept / estimates[0] < 1.1
    if kind == "shared":
        with memory_budget(0):
            assert bytes_kept(lambda: clip.encode_prompts(prompts), clip) < 0.1 * kept


def test_pieces_that_fit_the_budget_keep_their_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "ALWAYS", 10)
    monkeypatch.setattr(memory_module, "free_memory", lambda _: 50)
    last = [False, False, True, True]  # the backward pass needs these first
    # Without a backward pass nothing is recomputed; the default budget is half of the memory.
    for budget, learned, kept in ((25, True, last), (0, False, [True] * 4), (None, True, last)):
        with memory_budget(budget):
            assert SelectiveCheckpoint([10] * 4, torch.device("cpu"), learned).kept == kept
    monkeypatch.setattr(memory_module, "free_memory", lambda _: pytest.fail("memory was read"))
    SelectiveCheckpoint([5, 5], torch.device("cpu"), learned=True)  # too small to need a budget


def contrast(visual: Any, budget: int | None, calls: list[int] | None = None) -> list[Tensor]:
    """Return features, and the gradients of a loss that compares all images of a batch."""
    tower = ImageTower(visual, "tiny")
    images = pixels(visual, 7).requires_grad_()
    weights = {name: weight.detach().requires_grad_() for name, weight in tower.weights.items()}
    prompts = [draw(2, tower.width, seed=2), draw(7, 1, tower.width, seed=3)]
    scale = draw(tower.width, seed=4)

    def update(output: Tensor, given: Tensor) -> Tensor:
        if calls is not None:
            calls.append(len(given))
        return output + scale * given

    with memory_budget(budget):
        features = tower.encode(
            images, weights=weights, prompts=prompts, block_updates={(1, "attn"): update}
        )
        similar = F.normalize(features, dim=-1) @ F.normalize(features, dim=-1).T
        loss = F.cross_entropy(3 * similar, torch.arange(7).roll(1))
        inputs = [images, *prompts, scale, *weights.values()]
        gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [features.detach(), *(gradient for gradient in gradients if gradient is not None)]


@pytest.mark.parametrize("kind", IMAGE_TOWERS)
def test_micro_batches_of_images_give_the_gradients_of_one_batch(kind: str) -> None:
    visual = IMAGE_TOWERS[kind]()
    calls: list[int] = []
    whole = contrast(visual, 10**12, calls)
    assert calls == [7]
    calls.clear()
    torch.testing.assert_close(contrast(visual, 1, calls), whole)
    # An image at a time: forward, and again in the backward pass.
    assert calls == [1] * 14
    # Three parts, the last of which is kept.
    calls.clear()
    tower = ImageTower(visual, "tiny")
    gated = "eva" in kind
    numbers = kept_numbers(tower.tokens + 2, tower.width, tower.depth, trained=True, gated=gated)
    image = numbers * draw(1).itemsize
    torch.testing.assert_close(contrast(visual, 3 * image, calls), whole)
    assert sorted(calls) == [2, 2, 2, 2, 3]


def test_recomputed_micro_batches_draw_the_same_random_numbers() -> None:
    tower = ImageTower(IMAGE_TOWERS["clip"](), "tiny")
    rng = torch.Generator().manual_seed(1)
    hidden = tower.embed(pixels(IMAGE_TOWERS["clip"](), 4))
    scale = draw(tower.width)
    masks: list[Tensor] = []

    def update(output: Tensor, given: Tensor) -> Tensor:
        masks.append(torch.rand(given.shape, generator=rng))
        return output + scale * masks[-1] * given

    with memory_budget(1):
        features = tower.encode(hidden, block_updates={(0, "mlp"): update}, rng=rng)
        drawn = list(masks)
        state = rng.get_state()
        features.sum().backward()
    for mask, again in zip(drawn[::-1], masks[len(drawn) :], strict=True):
        assert torch.equal(mask, again)
    assert torch.equal(rng.get_state(), state)  # a later draw is not one of these


def test_memory_counted_per_image_equals_what_backward_keeps() -> None:
    for trained in (False, True):
        kept = []
        for layers in (2, 4):  # the last block computes a row alone
            backbone = wrap(tiny_clip(image_layers=layers), "tiny")
            weights = {}
            if trained:
                for name, weight in backbone.image.weights.items():
                    weights[name] = weight.detach().clone().requires_grad_()
            images = torch.zeros(2, 3, 24, 24)
            prompts = [draw(1, 32).float()]
            encode = partial(backbone.image.encode, images, weights=weights, prompts=prompts)
            own = sum(weight.nbytes for weight in weights.values())
            kept.append(bytes_kept(encode, backbone) - own)
        counted = 2 * 4 * kept_numbers(6, 32, 2, trained=trained, gated=False)
        assert 0.8 < (kept[1] - kept[0]) / counted < 1.15, trained
