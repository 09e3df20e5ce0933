"""Class names within the context, and prompts of a class's own in an inner block."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from open_clip_reference import run_tower
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels, memory_budget
from compatbench.backbone.text.prompts import Swap, move_names
from compatbench.errors import CompatbenchError

NAMES = (
    "xylophone",
    "dog",
    "a very old small blue boat",
    "fire engine",
    "ice-cream (soft)",
    "tree",
)
LABELS = Labels(NAMES, ("a photo of a {}.",), "a photo of a {}.")


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()


def tower_of(backbone: Backbone) -> Any:
    return getattr(backbone.model, "text", backbone.model)


def assert_same(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """Features and gradients of a function in which every class counts differently."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = draw(*expected.shape, seed=9).detach()
    gradients = [
        torch.autograd.grad((weight * features).sin().sum(), inputs)
        for features in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])


def name_lengths(backbone: Backbone) -> tuple[int, ...]:
    return backbone.name_tokens(LABELS)[1]


def run_moved(backbone: Backbone, context: Tensor, before: int) -> Tensor:
    """CoOp's prompt learner: prefix, half the context, name, the other half, and the rest."""
    length, tower = context.shape[-2], tower_of(backbone)
    ids = backbone.tokenizer([" ".join(["X"] * length) + f" {name}." for name in NAMES])
    rows = []
    for c, name in enumerate(NAMES):
        words = tower.token_embedding(ids[c])
        own = context if context.ndim == 2 else context[c]
        end = 1 + length + len(backbone.tokenizer.encode(name))
        parts = [words[:1], own[:before], words[1 + length : end], own[before:], words[end:]]
        rows.append(torch.cat(parts))
    return run_tower(tower, torch.stack(rows), ids.argmax(-1))


@pytest.mark.parametrize("before", [0, 1, 2, 4])
@pytest.mark.parametrize("shape", ["shared", "own"])
def test_moved_names_equal_the_full_forward(backbone64: Backbone, shape: str, before: int) -> None:
    context = draw(4, 32) if shape == "shared" else draw(len(NAMES), 4, 32)
    prompts = backbone64.prompts(LABELS, context)
    moved = move_names(prompts, name_lengths(backbone64), 4, before)
    expected = run_moved(backbone64, context, before)
    assert_same(backbone64.encode_prompts(moved), expected, [context])


@pytest.mark.parametrize(("before", "shared"), [(0, 1), (2, 3), (4, 5)])
def test_what_stays_before_the_names_is_shared(clip64: Backbone, before: int, shared: int) -> None:
    prompts = clip64.prompts(LABELS, draw(4, 32))
    assert move_names(prompts, name_lengths(clip64), 4, before).shared == shared


def run_swapped(backbone: Backbone, context: Tensor, block: int, swap: Tensor) -> Tensor:
    """TCP's text tower: rows 1 to m of every class overwritten before one block."""
    tower = tower_of(backbone)
    ids = backbone.tokenizer([" ".join(["X"] * context.shape[1]) + f" {name}." for name in NAMES])
    words = tower.token_embedding(ids)
    x = torch.cat([words[:, :1], context, words[:, 1 + context.shape[1] :]], dim=1)
    x = x + tower.positional_embedding
    for i, layer in enumerate(tower.transformer.resblocks):
        if i == block:
            x = torch.cat([x[:, :1], swap, x[:, 1 + swap.shape[1] :]], dim=1)
        x = layer(x, attn_mask=tower.attn_mask)
    pooled = tower.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)]
    return pooled @ tower.text_projection


@pytest.mark.parametrize("budget", [2**40, 0], ids=["kept", "computed again"])
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("rows", [1, 4])
def test_swapped_rows_equal_the_full_forward(
    backbone64: Backbone, block: int, rows: int, budget: int
) -> None:
    context, own = draw(len(NAMES), 4, 32), draw(len(NAMES), rows, 32, seed=1)
    prompts = dataclasses.replace(backbone64.prompts(LABELS, context), swap=Swap(block, own))
    with memory_budget(budget):
        found = backbone64.encode_prompts(prompts)
        assert_same(found, run_swapped(backbone64, context, block, own), [context, own])


def test_swapped_rows_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compatbench.backbone.text.causal.chunk_rows", lambda anatomy: 1)
    backbone = wrap(tiny_clip().double(), "chunked")
    context, own = draw(len(NAMES), 4, 32), draw(len(NAMES), 3, 32, seed=1)
    prompts = dataclasses.replace(backbone.prompts(LABELS, context), swap=Swap(1, own))
    found = backbone.encode_prompts(prompts)
    assert_same(found, run_swapped(backbone, context, 1, own), [context, own])


@pytest.mark.parametrize("kind", [dict(qk_norm=True), dict(no_causal_mask=True)], ids=str)
def test_swapped_rows_in_a_tower_that_is_run_whole(
    kind: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compatbench.backbone.text.plain.chunk_rows", lambda anatomy: 40)
    backbone = wrap(tiny_clip(**kind).double(), "whole")
    context, own = draw(len(NAMES), 4, 32), draw(len(NAMES), 4, 32, seed=1)
    prompts = dataclasses.replace(backbone.prompts(LABELS, context), swap=Swap(2, own))
    found = backbone.encode_prompts(prompts)
    assert_same(found, run_swapped(backbone, context, 2, own), [context, own])


@pytest.mark.parametrize("block", [0, 3])
def test_a_swap_in_no_inner_block_is_refused(clip: Backbone, block: int) -> None:
    prompts = clip.prompts(LABELS, torch.zeros(len(NAMES), 4, 32))
    swap = Swap(block, torch.zeros(len(NAMES), 4, 32))
    with pytest.raises(CompatbenchError, match=rf"inner block {block} .* 3 blocks"):
        clip.encode_prompts(dataclasses.replace(prompts, swap=swap))


@pytest.mark.parametrize("shape", [(len(NAMES), 7), (2, 4)])
def test_a_swap_of_rows_that_are_not_there_is_refused(
    clip: Backbone, shape: tuple[int, int]
) -> None:
    prompts = clip.prompts(LABELS, torch.zeros(len(NAMES), 4, 32))
    with pytest.raises(CompatbenchError, match=rf"{shape[1]} rows for each of {shape[0]} classes"):
        clip.encode_prompts(dataclasses.replace(prompts, swap=Swap(1, torch.zeros(*shape, 32))))
