"""Prompts in later blocks, and prompts for every image: equal to the whole tower's forward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip_reference import encode_contexts
from tiny_models import tiny_clip, wrap
from torch import Tensor

from compatbench.backbone import Backbone, Labels, Prompts
from compatbench.errors import CompatbenchError

NAMES = ("xylophone", "dog", "a very old small blue boat", "fire engine", "tree")
LABELS = Labels(NAMES, ("a photo of a {}.",), "a photo of a {}.")


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()


def run_deep(backbone: Backbone, context: Tensor, deep: list[Tensor]) -> Tensor:
    """MaPLe's text tower: full context, rows 1 to m replaced before blocks 1, 2, ..."""
    length = len(context)
    tower: Any = getattr(backbone.model, "text", backbone.model)
    ids = backbone.tokenizer([" ".join(["X"] * length) + f" {name}." for name in NAMES])
    words = tower.token_embedding(ids)
    shared = context.expand(len(NAMES), -1, -1)
    x = torch.cat([words[:, :1], shared, words[:, 1 + length :]], dim=1)
    x = x + tower.positional_embedding
    for i, block in enumerate(tower.transformer.resblocks):
        if 0 < i <= len(deep):
            rows = deep[i - 1].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], rows, x[:, 1 + rows.shape[1] :]], dim=1)
        x = block(x, attn_mask=tower.attn_mask)
    pooled = tower.ln_final(x)[torch.arange(len(x)), ids.argmax(-1)]
    return pooled @ tower.text_projection


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


@pytest.mark.parametrize("rows", [[4], [4, 4], [2, 2], [1, 3]], ids=str)
def test_deep_prompts_equal_the_full_forward(backbone64: Backbone, rows: list[int]) -> None:
    context = draw(4, 32)
    deep = [draw(m, 32, seed=i + 1) for i, m in enumerate(rows)]
    found = backbone64.encode_prompts(backbone64.prompts(LABELS, context, deep))
    assert_same(found, run_deep(backbone64, context, deep), [context, *deep])


def test_rows_that_are_replaced_have_no_gradient_through_later_blocks(clip64: Backbone) -> None:
    """What counts of a context that is replaced is what the first block saw of it."""
    context, deep = draw(4, 32), [draw(4, 32, seed=1), draw(4, 32, seed=2)]
    features = clip64.encode_prompts(clip64.prompts(LABELS, context, deep))
    plain = clip64.encode_prompts(clip64.prompts(LABELS, context))
    assert (features - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [dict(qk_norm=True), dict(no_causal_mask=True)], ids=str)
def test_deep_prompts_in_a_tower_that_is_run_whole(kind: dict[str, object]) -> None:
    model = tiny_clip(**kind).double()
    backbone = wrap(model, "whole")
    context, deep = draw(4, 32), [draw(4, 32, seed=1), draw(2, 32, seed=2)]
    found = backbone.encode_prompts(backbone.prompts(LABELS, context, deep))
    assert_same(found, run_deep(backbone, context, deep), [context, *deep])


def test_deep_prompts_beyond_the_last_block_are_refused(clip: Backbone) -> None:
    deep = [torch.zeros(2, 32)] * 3
    with pytest.raises(CompatbenchError, match=r"3 blocks after the first .* of 3 blocks"):
        clip.encode_prompts(clip.prompts(LABELS, torch.zeros(4, 32), deep))


def test_deep_prompts_that_are_not_shared_are_refused(clip: Backbone) -> None:
    own, deep = torch.zeros(len(NAMES), 4, 32), [torch.zeros(4, 32)]
    with pytest.raises(CompatbenchError, match=r"replace 4 rows .* share only 0"):
        clip.encode_prompts(clip.prompts(LABELS, own, deep))


@pytest.mark.parametrize("images", [1, 3])
def test_prompts_of_images_equal_one_full_forward_each(backbone64: Backbone, images: int) -> None:
    contexts = draw(images, 4, 32)
    found = backbone64.encode_prompts(backbone64.image_prompts(LABELS, contexts))
    expected = torch.stack([encode_contexts(backbone64, NAMES, own) for own in contexts])
    assert found.shape == (images, len(NAMES), 16)
    assert_same(found, expected, [contexts])


def test_prompts_of_images_in_a_tower_that_is_run_whole() -> None:
    backbone = wrap(tiny_clip(no_causal_mask=True).double(), "whole")
    contexts = draw(2, 4, 32)
    found = backbone.encode_prompts(backbone.image_prompts(LABELS, contexts))
    expected = torch.stack([encode_contexts(backbone, NAMES, own) for own in contexts])
    assert_same(found, expected, [contexts])


def test_deep_prompts_with_prompts_of_images(clip64: Backbone) -> None:
    contexts, deep = draw(2, 4, 32), (draw(3, 32, seed=1),)
    prompts = clip64.image_prompts(LABELS, contexts)
    found = clip64.encode_prompts(Prompts(prompts.prefix, prompts.suffix, prompts.lengths, deep))
    expected = torch.stack([run_deep(clip64, own, list(deep)) for own in contexts])
    assert_same(found, expected, [contexts, *deep])


@given(images=st.integers(1, 4), shared=st.integers(1, 5), seed=st.integers(0, 99))
def test_an_image_does_not_depend_on_the_others(
    clip64: Backbone, images: int, shared: int, seed: int
) -> None:
    prefix = draw(images, shared, 32, seed=seed)
    suffix, lengths = draw(6, 5, 32, seed=seed + 1), (1, 5, 2, 2, 4, 3)
    together = clip64.encode_prompts(Prompts(prefix, suffix, lengths))
    alone = [clip64.encode_prompts(Prompts(own, suffix, lengths)) for own in prefix]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-10, atol=1e-10)
