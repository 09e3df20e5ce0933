"""Prompts as token embeddings: a prefix shared by all classes, and a suffix for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts in the token-embedding space of a text tower.

    Prompt ``i`` is ``prefix`` followed by the first ``lengths[i]`` rows of ``suffix[i]``;
    its last row is the end-of-text token. Rows beyond that are padding, never read.

    Attributes:
        prefix: rows that all prompts share, start-of-text first, ``[P, D]``.
        suffix: rows of each prompt after the prefix, right-padded, ``[n, S, D]``.
        lengths: rows of each suffix that count, each at least 1.
    """

    prefix: Tensor
    suffix: Tensor
    lengths: tuple[int, ...]

    @property
    def longest(self) -> int:
        """Rows of the longest prompt."""
        return self.prefix.shape[0] + max(self.lengths)


def pad_rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Stacks token ids of unequal lengths, right-padded with 0, ``[n, S]``."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], dtype=torch.long)


@dataclass(frozen=True)
class Bucket:
    """Prompts of one suffix length, contiguous among the packed rows."""

    start: int
    count: int
    length: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.length


@dataclass(frozen=True)
class PackedLayout:
    """Where the rows of ragged suffixes lie when packed without padding, shortest first.

    Attributes:
        prompt, column: row ``r`` of the packed batch is ``suffix[prompt[r], column[r]]``, ``[R]``.
        last: packed row of each prompt's end-of-text token, in packed order, ``[n]``.
        restore: ``packed_features[restore]`` is in the caller's order, ``[n]``.
        buckets: runs of prompts of equal length, in packed order.
    """

    prompt: Tensor
    column: Tensor
    last: Tensor
    restore: Tensor
    buckets: tuple[Bucket, ...]


@lru_cache(maxsize=256)
def packed_layout(lengths: tuple[int, ...], device: torch.device) -> PackedLayout:
    """The layout of suffixes of these lengths; remembered, as a fit asks for it at every step."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    prompt: list[int] = []
    column: list[int] = []
    last: list[int] = []
    buckets: list[Bucket] = []
    for i in order:
        start = len(prompt)
        prompt += [i] * lengths[i]
        column += range(lengths[i])
        last.append(len(prompt) - 1)
        if buckets and buckets[-1].length == lengths[i]:
            buckets[-1] = Bucket(buckets[-1].start, buckets[-1].count + 1, lengths[i])
        else:
            buckets.append(Bucket(start, 1, lengths[i]))
    restore = [0] * len(order)
    for position, i in enumerate(order):
        restore[i] = position

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return PackedLayout(
        tensor(prompt), tensor(column), tensor(last), tensor(restore), tuple(buckets)
    )
