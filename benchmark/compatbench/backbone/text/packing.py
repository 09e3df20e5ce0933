"""Ragged suffixes packed into groups of equal size, so that one attention call serves all.

A group is a run of ``size`` rows that holds whole suffixes, one after the other; a mask
keeps them apart. Compared with a call per suffix length this computes a few masked
scores and a few rows of padding more, but copies the prefix's keys and values once per
group instead of once per class, and that is what costs.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

GROUP = 32
"""Rows of a group that hold several suffixes; longer suffixes make longer groups."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """Groups that go through the tower together; it equals itself alone.

    Attributes:
        source: packed row ``r`` is row ``source[r]`` of the suffixes ``[n * S, D]``, ``[R]``.
        position: position of each packed row in its prompt, ``[R]``.
        last: packed row of each end-of-text token, ``[classes]``.
        mask: what is added to the scores, ``[groups, 1, size, P + size]``.
    """

    source: Tensor
    position: Tensor
    last: Tensor
    mask: Tensor

    @property
    def groups(self) -> int:
        return self.mask.shape[0]

    @property
    def rows(self) -> int:
        return self.source.shape[0]


@dataclass(frozen=True)
class Layout:
    """All chunks; ``torch.cat(features)[restore]`` is in the caller's order, ``[n]``."""

    chunks: tuple[Chunk, ...]
    restore: Tensor


@lru_cache(maxsize=64)
def pack(
    lengths: tuple[int, ...],
    shared: int,
    stride: int,
    chunk_rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Layout:
    """The layout of suffixes of these lengths; remembered, as a fit asks for it at every step.

    Args:
        lengths: rows of each suffix.
        shared: rows P of the prefix.
        stride: rows S between one suffix and the next where they come from.
        chunk_rows: about how many packed rows a chunk holds.
        dtype, device: of the masks and indices.
    """
    size, groups = _best_groups(lengths)
    count = max(1, round(len(groups) * size / chunk_rows))
    bounds = [len(groups) * i // count for i in range(count + 1)]
    parts = [groups[a:b] for a, b in pairwise(bounds) if b > a]
    order = [i for group in groups for i in group]
    restore = torch.empty(len(order), dtype=torch.long)
    restore[torch.tensor(order)] = torch.arange(len(order))
    chunks = tuple(_chunk(part, lengths, size, shared, stride, dtype, device) for part in parts)
    return Layout(chunks, restore.to(device))


def _chunk(
    groups: list[list[int]],
    lengths: tuple[int, ...],
    size: int,
    shared: int,
    stride: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Chunk:
    # Padding copies a row that exists, as rows beyond a suffix's length may hold anything.
    # It sees the prefix and itself, and nothing sees it.
    source = torch.full((len(groups), size), groups[0][0] * stride)
    position = torch.full((len(groups), size), shared)
    owner = torch.arange(-size, 0).repeat(len(groups), 1)
    last = []
    for g, group in enumerate(groups):
        row = 0
        for i in group:
            part = slice(row, row + lengths[i])
            source[g, part] = i * stride + torch.arange(lengths[i])
            position[g, part] = shared + torch.arange(lengths[i])
            owner[g, part] = i
            row += lengths[i]
            last.append(g * size + row - 1)
    own = (owner[:, :, None] == owner[:, None, :]) & torch.ones(size, size).tril().bool()
    seen = torch.cat([torch.ones(len(groups), size, shared, dtype=torch.bool), own], dim=-1)
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf)[:, None]
    return Chunk(
        source.flatten().to(device),
        position.flatten().to(device),
        torch.tensor(last, device=device),
        mask.to(device),
    )


def _best_groups(lengths: tuple[int, ...]) -> tuple[int, list[list[int]]]:
    """The group size that leaves the fewest rows, and the classes of each group."""
    longest = max(lengths)
    # A group larger than all suffixes together would only be padding.
    largest = max(longest, min(sum(lengths), GROUP))
    smallest = max(longest, largest // 2)
    candidates = ((size, _fill(lengths, size)) for size in range(largest, smallest - 1, -1))
    return min(candidates, key=lambda candidate: candidate[0] * len(candidate[1]))


def _fill(lengths: tuple[int, ...], size: int) -> list[list[int]]:
    """First-fit decreasing: groups of classes whose suffixes fit ``size`` rows."""
    waiting: dict[int, list[int]] = defaultdict(list)
    for i in reversed(range(len(lengths))):
        waiting[lengths[i]].append(i)
    decreasing = sorted(waiting, reverse=True)
    groups: list[list[int]] = []
    left = len(lengths)
    while left:
        group: list[int] = []
        room = size
        for length in decreasing:
            while waiting[length] and length <= room:
                group.append(waiting[length].pop())
                room -= length
        left -= len(group)
        groups.append(group)
    return groups
