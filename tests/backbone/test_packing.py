"""Groups of suffixes hold every row once, and are kept apart by their mask."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from compatbench.backbone.text.packing import GROUP, Layout, pack

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=60).map(tuple)


def layout_of(lengths: tuple[int, ...], shared: int = 3, chunk_rows: int = 64) -> Layout:
    stride = max(lengths) + 2
    return pack(lengths, shared, stride, chunk_rows, torch.float32, torch.device("cpu"))


def test_a_group_holds_whole_suffixes_one_after_the_other() -> None:
    (chunk,) = layout_of((2, 1, 2)).chunks
    assert chunk.source.tolist() == [0, 1, 8, 9, 4]
    assert chunk.position.tolist() == [3, 4, 3, 4, 3]
    assert chunk.last.tolist() == [1, 3, 4]
    seen = (chunk.mask[0, 0] == 0).int().tolist()
    assert seen == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 0, 0, 0, 0, 1],
    ]


@given(lengths=LENGTHS)
def test_every_class_is_encoded_once_whole_and_in_its_place(lengths: tuple[int, ...]) -> None:
    stride = max(lengths) + 2
    layout = layout_of(lengths)
    ends = torch.cat([chunk.source[chunk.last] for chunk in layout.chunks])[layout.restore]
    assert ends.tolist() == [i * stride + n - 1 for i, n in enumerate(lengths)]
    sources = set(torch.cat([chunk.source for chunk in layout.chunks]).tolist())
    assert sources == {i * stride + row for i, n in enumerate(lengths) for row in range(n)}


@given(lengths=LENGTHS, shared=st.integers(0, 4))
def test_a_row_sees_the_prefix_and_its_own_past_only(lengths: tuple[int, ...], shared: int) -> None:
    stride = max(lengths) + 2
    for chunk in layout_of(lengths, shared).chunks:
        size = chunk.mask.shape[2]
        source, position = (x.view(chunk.groups, size) for x in (chunk.source, chunk.position))
        for g in range(chunk.groups):
            seen = chunk.mask[g, 0] == 0
            assert seen[:, :shared].all()
            assert not torch.isneginf(chunk.mask[g, 0]).all(-1).any()
            for row in range(size):
                own = source[g, seen[row, shared:]]
                assert (own // stride == source[g, row] // stride).all()
                assert len(own) == position[g, row] - shared + 1


@given(lengths=LENGTHS)
def test_little_is_padded_and_groups_are_of_one_size(lengths: tuple[int, ...]) -> None:
    layout = layout_of(lengths)
    rows = sum(chunk.rows for chunk in layout.chunks)
    sizes = {chunk.mask.shape[2] for chunk in layout.chunks}
    assert len(sizes) == 1
    assert max(sizes) <= max(GROUP, max(lengths))
    assert rows < sum(lengths) + 2 * GROUP + sum(lengths) // 2


def test_real_names_are_packed_almost_without_padding() -> None:
    lengths = (3,) * 400 + (4,) * 350 + (5,) * 150 + (6,) * 60 + (7,) * 30 + (9,) * 8 + (14,) * 2
    layout = layout_of(lengths, chunk_rows=384)
    assert sum(chunk.rows for chunk in layout.chunks) <= 1.02 * sum(lengths)
    assert all(300 <= chunk.rows <= 460 for chunk in layout.chunks)
