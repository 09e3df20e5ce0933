"""Attention by plan computes what the general call computes, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compatbench.backbone.text.attention import attend, plan_chunk, plan_images
from compatbench.backbone.text.packing import pack

HEADS, WIDTH = 2, 6
LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=20).map(tuple)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def attend_naively(qkv: Tensor, rows: list[int], seen: Tensor) -> Tensor:
    """Rows of one attention over all rows, ``seen`` being which row may see which."""
    parts = qkv.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(*parts, attn_mask=seen)
    return mixed.transpose(1, 2).flatten(2)[:, rows]


def assert_same(found: Tensor, expected: Tensor, qkv: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = draw(*expected.shape, seed=1).detach()
    gradients = [torch.autograd.grad((weight * x).sin().sum(), qkv)[0] for x in (found, expected)]
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


@given(
    lengths=LENGTHS,
    shared=st.integers(0, 40),
    images=st.integers(1, 3),
    kind=st.sampled_from(["with prefix", "behind memory", "last"]),
)
def test_packed_suffixes(lengths: tuple[int, ...], shared: int, images: int, kind: str) -> None:
    layout = pack(lengths, shared, max(lengths), 10**6, torch.float64, torch.device("cpu"))
    (chunk,) = layout.chunks
    total = shared + chunk.rows
    seen = torch.eye(total, dtype=torch.bool)
    seen[:shared, :shared] = torch.ones(shared, shared).tril().bool()
    seen[shared:, :shared] = True
    size = chunk.mask.shape[2]
    for g, mask in enumerate(chunk.mask[:, 0]):
        own = slice(shared + g * size, shared + (g + 1) * size)
        seen[own, own] = mask[:, shared:] == 0
    rows = list(range(0 if kind == "with prefix" else shared, total))
    if kind == "last":
        rows = (chunk.last + shared).tolist()
    qkv = draw(images, total, 3 * WIDTH)
    plan = plan_chunk(chunk, images, HEADS, kind == "with prefix", kind == "last")
    assert_same(attend(qkv, plan), attend_naively(qkv, rows, seen), qkv)


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("images", [1, 4])
def test_images(images: int, rows: int) -> None:
    qkv = draw(images, 7, 3 * WIDTH)
    plan = plan_images(images, 7, rows, HEADS, torch.device("cpu"))
    everything = torch.ones(7, 7, dtype=torch.bool)
    assert_same(attend(qkv, plan), attend_naively(qkv, list(range(rows)), everything), qkv)
