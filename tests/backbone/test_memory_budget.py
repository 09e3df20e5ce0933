"""The memory budget changes what is kept for the backward pass, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from open_clip_reference import draw
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Prompts, memory_budget
from compatbench.backbone.text import causal as causal_module
from compatbench.backbone.text import memory as memory_module
from compatbench.backbone.text.memory import SelectiveCheckpoint

LENGTHS = (3, 1, 9, 4, 4, 2, 7, 5) * 12


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 64 rows, the least there is: several for the classes above."""
    monkeypatch.setattr(causal_module, "CACHE", 1)


def make_prompts(kind: str) -> tuple[Prompts, list[Tensor]]:
    suffix, deep = draw(len(LENGTHS), 9, 32, seed=1), ()
    prefix = draw(5, 32) if kind != "images" else draw(3, 5, 32)
    if kind == "deep":
        deep = (draw(4, 32, seed=2), draw(2, 32, seed=3))
    return Prompts(prefix, suffix, LENGTHS, deep), [prefix, suffix, *deep]


def run(backbone: Backbone, kind: str, budget: int | None) -> list[Tensor]:
    prompts, inputs = make_prompts(kind)
    with memory_budget(budget):
        features = backbone.encode_prompts(prompts)
        weight = draw(*features.shape, seed=4).detach()
        loss = (weight * features).sin().sum()
        # ProGrad asks for the gradients of two losses over the same features.
        gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
        return [features.detach(), *gradients, *torch.autograd.grad(loss, inputs)]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("kind", ["shared", "deep", "images"])
@pytest.mark.parametrize("budget", [0, 3_000_000])
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_tight_budget_gives_the_same_bits(kind: str, budget: int, whole: bool) -> None:
    backbone = wrap(tiny_clip(no_causal_mask=whole).double(), "tiny")
    everything = run(backbone, kind, 10**12)
    for found, expected in zip(run(backbone, kind, budget), everything, strict=True):
        assert torch.equal(found, expected)


def bytes_kept(encode: Callable[[], Tensor], backbone: Backbone) -> int:
    """Bytes of the tensors that autograd holds, weights aside."""
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
def test_the_estimate_is_close_to_what_is_kept_and_a_budget_of_zero_keeps_almost_nothing(
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


def test_which_pieces_keep_their_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_module, "ALWAYS", 10)
    monkeypatch.setattr(memory_module, "free_memory", lambda _: 50)
    last = [False, False, True, True]  # these are needed first
    # Without a backward pass nothing is computed again; without a budget it is half of the memory.
    for budget, learned, kept in ((25, True, last), (0, False, [True] * 4), (None, True, last)):
        with memory_budget(budget):
            assert SelectiveCheckpoint([10] * 4, torch.device("cpu"), learned).kept == kept
    monkeypatch.setattr(memory_module, "free_memory", lambda _: pytest.fail("looked"))
    SelectiveCheckpoint([5, 5], torch.device("cpu"), learned=True)  # too small a problem
