"""Groups of suffixes hold every row once and are kept apart, and attention over them is exact."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from compatbench.backbone.text.causal import GROUP, Chunk, attend_packed, pack

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=60).map(tuple)
HEADS, WIDTH = 2, 6


def pack_suffixes(
    lengths: tuple[int, ...], shared: int = 3, chunk_rows: int = 64
) -> tuple[list[Chunk], torch.Tensor]:
    stride = max(lengths) + 2
    return pack(lengths, shared, stride, chunk_rows, torch.float64, torch.device("cpu"))


def test_a_group_holds_whole_suffixes_one_after_the_other() -> None:
    (chunk,), _ = pack_suffixes((2, 1, 2))
    assert chunk.source.tolist() == [0, 1, 8, 9, 4]
    assert chunk.position.tolist() == [3, 4, 3, 4, 3]
    assert chunk.last.tolist() == [1, 3, 4]
    seen = (chunk.mask[0] == 0).int().tolist()
    assert seen == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 0, 0, 0, 0, 1],
    ]


@given(lengths=LENGTHS, shared=st.integers(0, 4))
def test_every_class_is_there_once_and_sees_the_prefix_and_its_own_past(
    lengths: tuple[int, ...], shared: int
) -> None:
    stride = max(lengths) + 2
    chunks, restore = pack_suffixes(lengths, shared)
    ends = torch.cat([chunk.source[chunk.last] for chunk in chunks])[restore]
    assert ends.tolist() == [i * stride + n - 1 for i, n in enumerate(lengths)]
    sources = set(torch.cat([chunk.source for chunk in chunks]).tolist())
    assert sources == {i * stride + row for i, n in enumerate(lengths) for row in range(n)}
    for chunk in chunks:
        size = chunk.mask.shape[1]
        source, position = (x.view(-1, size) for x in (chunk.source, chunk.position))
        for g, mask in enumerate(chunk.mask):
            seen = mask == 0
            assert seen[:, :shared].all()
            assert not torch.isneginf(mask).all(-1).any()
            for row in range(size):
                own = source[g, seen[row, shared:]]
                assert (own // stride == source[g, row] // stride).all()
                assert len(own) == position[g, row] - shared + 1


@given(lengths=LENGTHS)
def test_little_is_padded_and_groups_are_of_one_size(lengths: tuple[int, ...]) -> None:
    chunks, _ = pack_suffixes(lengths)
    rows = sum(chunk.rows for chunk in chunks)
    (size,) = {chunk.mask.shape[1] for chunk in chunks}
    assert size <= max(GROUP, max(lengths))
    assert rows < sum(lengths) + 2 * GROUP + sum(lengths) // 2


def test_real_names_are_packed_almost_without_padding() -> None:
    lengths = (3,) * 400 + (4,) * 350 + (5,) * 150 + (6,) * 60 + (7,) * 30 + (9,) * 8 + (14,) * 2
    chunks, _ = pack_suffixes(lengths, chunk_rows=384)
    assert sum(chunk.rows for chunk in chunks) <= 1.02 * sum(lengths)
    assert all(300 <= chunk.rows <= 460 for chunk in chunks)


@given(
    lengths=LENGTHS,
    shared=st.integers(0, 40),
    images=st.integers(1, 3),
    kind=st.sampled_from(["with prefix", "behind memory", "last"]),
)
def test_attention_over_packed_rows_is_that_over_all_rows(
    lengths: tuple[int, ...], shared: int, images: int, kind: str
) -> None:
    (chunk,), _ = pack_suffixes(lengths, shared, chunk_rows=10**6)
    total = shared + chunk.rows
    seen = torch.eye(total, dtype=torch.bool)
    seen[:shared, :shared] = torch.ones(shared, shared).tril().bool()
    seen[shared:, :shared] = True
    for group, mask in zip(
        torch.arange(shared, total).split(len(chunk.mask[0])), chunk.mask, strict=True
    ):
        seen[group[0] : group[-1] + 1, group[0] : group[-1] + 1] = mask[:, shared:] == 0
    rows = torch.arange(0 if kind == "with prefix" else shared, total)
    if kind == "last":
        rows = chunk.last + shared
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(images, total, 3 * WIDTH, generator=generator, dtype=torch.float64)
    parts = qkv.requires_grad_().unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
    naive = F.scaled_dot_product_attention(*parts, attn_mask=seen)
    expected = naive.transpose(1, 2).flatten(2)[:, rows]
    found = attend_packed(qkv, chunk, HEADS, kind == "with prefix", kind == "last")
    weight = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    results = [
        (x, torch.autograd.grad((weight * x).sin().sum(), qkv)[0]) for x in (found, expected)
    ]
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
