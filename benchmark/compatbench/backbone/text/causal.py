"""A causal text tower pooled at the end-of-text token, run without redundant work.

Such a tower never looks past the end-of-text token, and what comes before a class's own
tokens is the same for every class. So padding is not computed, the shared prefix runs once,
each class's suffix attends to the prefix's keys and values, and the last block computes the
end-of-text rows only. Features and gradients equal open_clip's own up to rounding.

Ragged suffixes are packed into groups of equal size, so that one attention call serves all: a
group is a run of ``size`` rows that holds whole suffixes, one after the other, and a mask keeps
them apart. Compared with a call per suffix length this computes a few masked scores and a few
rows of padding more, but copies the prefix's keys and values once per group instead of once per
class, and that is what costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from compatbench.backbone.parts.blocks import (
    BlockUpdates,
    StandardBlock,
    Updates,
    apply_to_projections,
    attend,
    updates_of,
)
from compatbench.backbone.parts.memory import SelectiveCheckpoint
from compatbench.backbone.text.prompts import Prompts, Swap, replace_rows
from compatbench.backbone.text.text_anatomy import TextAnatomy

CACHE = 3 * 2**20
"""Bytes of an MLP's hidden rows in a chunk: 384 rows of width 512 in float32.

Of 128 to 1,200 rows on an AMD EPYC (1 MiB of L2, 32 MiB of L3), 400 to 600 took least time,
256 took 4 % more, and both 128 and all at once 14 % more; the fewer, the less memory.
"""

ACCELERATOR_ROWS = 8192
"""Rows that keep an accelerator busy."""

GROUP = 32
"""Rows of a group that hold several suffixes; longer suffixes make longer groups."""


def chunk_rows(anatomy: TextAnatomy) -> int:
    """The best number of rows to run through a tower together.

    It depends on neither the memory budget nor the number of threads: other chunks would
    round differently, and the same fit would end with other last digits.
    """
    positions = anatomy.positions
    if positions.device.type != "cpu":
        return ACCELERATOR_ROWS
    return max(64, CACHE // (4 * positions.shape[1] * positions.element_size()))


class CausalTower:
    """Runs standard blocks over packed rows; ``learned`` is as for ``PlainTower``."""

    def __init__(
        self, anatomy: TextAnatomy, learned: bool = False, updates: BlockUpdates | None = None
    ) -> None:
        self._anatomy = anatomy
        of_blocks = updates_of(updates, len(anatomy.blocks), "text")
        self._blocks = [_Block(*pair) for pair in zip(anatomy.blocks, of_blocks, strict=True)]
        self._learned = learned

    def encode(self, prompts: Prompts) -> Tensor:
        """Features of prompts, ``[n, e]``, or ``[B, n, e]`` for B prefixes."""
        positions, rows = self._anatomy.positions, chunk_rows(self._anatomy)
        stride, device = prompts.suffix.shape[1], positions.device
        chunks, restore = pack(
            prompts.lengths, prompts.shared, stride, rows, positions.dtype, device
        )
        prefix = prompts.prefixes + positions[: prompts.shared]
        parts = prefix.split(max(1, round(rows / (prompts.shared + chunks[0].rows))))
        sizes = [
            sum(
                block.bytes(len(part), 0 if i else part.shape[1], chunk, self._learned)
                for block in self._blocks
            )
            for part in parts
            for i, chunk in enumerate(chunks)
        ]
        learned = self._learned or prompts.need_gradients
        checkpoint = SelectiveCheckpoint(sizes, device, learned)
        features = []
        for part in parts:
            first, *kept = checkpoint.run(self._run_chunk, chunks[0], prompts, part)
            of_chunks = [first]
            for chunk in chunks[1:]:
                of_chunks += checkpoint.run(self._run_chunk, chunk, prompts, part[:, :0], *kept)[:1]
            features.append(torch.cat(of_chunks, dim=1).index_select(1, restore))
        return prompts.unflatten(torch.cat(features))

    def _run_chunk(
        self, chunk: Chunk, prompts: Prompts, prefix: Tensor, *kept: Tensor
    ) -> tuple[Tensor, ...]:
        """Features of a chunk, and each block's projections of the prefix.

        Args:
            prefix: the prefix's embedded rows; none if its projections are given as ``kept``.
        """
        suffix = prompts.suffix.flatten(0, 1).index_select(0, chunk.source)
        rows = suffix + self._anatomy.positions.index_select(0, chunk.position)
        x = torch.cat([prefix, rows.expand(len(prefix), -1, -1)], dim=1)
        deep, swap, shared = prompts.deep, prompts.swap, prefix.shape[1]
        projections = []
        for i, block in enumerate(self._blocks):
            if 0 < i <= len(deep) and not kept:
                x = replace_rows(x, deep[i - 1])
            if swap is not None and i == swap.block:
                packed = _swap_packed(x[:, shared:], swap, chunk, prompts.suffix.shape[1])
                x = torch.cat([x[:, :shared], packed], dim=1)
            x, projected = block(
                x, chunk, shared, kept[i] if kept else None, i + 1 == len(self._blocks)
            )
            projections.append(projected)
        return self._anatomy.project(self._anatomy.ln_final(x)), *projections


def _swap_packed(x: Tensor, swap: Swap, chunk: Chunk, stride: int) -> Tensor:
    """Packed rows ``[B, R, D]``, the first m of each suffix replaced."""
    count = swap.rows.shape[1]
    rows = F.pad(swap.rows, (0, 0, 0, stride - count)).flatten(0, 1).index_select(0, chunk.source)
    return torch.where((chunk.source % stride < count)[:, None], rows, x)


class _Block(StandardBlock):
    """A block over ``[B, P + R, D]``: rows of the prefix, then packed rows."""

    def __init__(self, block: nn.Module, updates: Updates) -> None:
        super().__init__(block)
        self._updates = updates

    def __call__(
        self, x: Tensor, chunk: Chunk, shared: int, kept: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor]:
        """The block's output, and the projections of the prefix, ``[B, P, 3D]``.

        The first ``shared`` rows of x are the prefix; without any, ``kept``, which this block
        returned for it, replaces them. ``last``: the end-of-text rows alone are computed.
        """
        normed = self.block.ln_1(x)
        qkv = self.project(normed)
        if self._updates:
            qkv = apply_to_projections(self._updates, qkv, normed)
        else:
            normed = x  # which no update sees, so that its memory is free
        if kept is None:
            kept = qkv[:, :shared].clone()  # a view would keep all of it
        else:
            qkv = torch.cat([kept, qkv], dim=1)
        mixed = attend_packed(qkv, chunk, self.heads, shared > 0, last)
        if last:
            ends = chunk.last + shared
            x = x.index_select(1, ends)
            normed = normed.index_select(1, ends) if self._updates else normed
        return self.finish(x, mixed, self._updates, normed), kept

    def bytes(self, images: int, shared: int, chunk: Chunk, learned: bool) -> int:
        """Bytes that the backward pass needs of one block, from the sizes of what is saved."""
        width = self.block.attn.out_proj.out_features
        hidden = self.block.mlp.c_fc.out_features
        rows = images * (shared + chunk.rows)
        size, keys = chunk.mask.shape[1:]
        groups = len(chunk.mask) + -(-shared // size)
        # Inputs of both norms, the hidden rows; gathered queries, keys and values, and scores.
        values = rows * (2 * width + hidden)
        values += images * groups * (size * width + keys * 2 * width + self.heads * size * keys)
        values += rows * 2 * width * len(self._updates)
        if learned:  # what the matrices' gradients need: outputs of norms, attention, activation
            values += rows * (3 * width + hidden)
        return values * chunk.mask.element_size()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Groups that go through the tower together; it equals itself alone."""

    source: Tensor  # packed row ``r`` is row ``source[r]`` of the suffixes ``[n * S, D]``, ``[R]``
    position: Tensor  # of each packed row in its prompt, ``[R]``
    last: Tensor  # packed row of each end-of-text token, ``[classes]``
    mask: Tensor  # what is added to the scores, ``[groups, size, P + size]``
    on_cpu: tuple[Tensor, Tensor]  # ``last`` and ``mask``, for plans that wait for no device

    @property
    def rows(self) -> int:
        return self.source.shape[0]


@lru_cache(maxsize=64)
def pack(
    lengths: tuple[int, ...],
    shared: int,
    stride: int,
    chunk_rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[list[Chunk], Tensor]:
    """Chunks of suffixes, and where each class is in ``torch.cat(features)``, ``[n]``.

    They are remembered, as a fit asks for them at every step.

    Args:
        lengths: rows of each suffix.
        shared: rows P of the prefix.
        stride: rows S between one suffix and the next where they come from.
        chunk_rows: about how many packed rows a chunk holds.
    """
    size, groups = _best_groups(lengths)
    count = max(1, round(len(groups) * size / chunk_rows))
    bounds = [len(groups) * i // count for i in range(count + 1)]
    chunks = []
    for part in (groups[a:b] for a, b in pairwise(bounds) if b > a):
        # Padding copies a row that exists, as rows beyond a suffix's length may hold anything.
        # It sees the prefix and itself, and nothing sees it.
        source = torch.full((len(part), size), part[0][0] * stride)
        position = torch.full((len(part), size), shared)
        owner = torch.arange(-size, 0).repeat(len(part), 1)
        last = []
        for g, group in enumerate(part):
            row = 0
            for i in group:
                here, rows = slice(row, row + lengths[i]), torch.arange(lengths[i])
                source[g, here] = i * stride + rows
                position[g, here] = shared + rows
                owner[g, here] = i
                row += lengths[i]
                last.append(g * size + row - 1)
        of_one_suffix = (owner[:, :, None] == owner[:, None, :]).tril()
        hidden = F.pad(~of_one_suffix, (shared, 0))
        mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf)
        tensors = source.flatten(), position.flatten(), torch.tensor(last), mask
        chunks.append(
            Chunk(*(tensor.to(device, non_blocking=True) for tensor in tensors), on_cpu=tensors[2:])
        )
    restore = torch.tensor([i for group in groups for i in group]).argsort()
    return chunks, restore.to(device, non_blocking=True)


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
    waiting = {length: [] for length in sorted(set(lengths), reverse=True)}
    for i in reversed(range(len(lengths))):
        waiting[lengths[i]].append(i)
    groups, left = [], len(lengths)
    while left:
        group, room = [], size
        for length, classes in waiting.items():
            while classes and length <= room:
                group.append(classes.pop())
                room -= length
        left -= len(group)
        groups.append(group)
    return groups


def attend_packed(qkv: Tensor, chunk: Chunk, heads: int, with_prefix: bool, last: bool) -> Tensor:
    """The output of attention, ``[B, rows, D]``, from projections ``[B, P + R, 3D]``.

    Args:
        qkv: of the prefix's rows, then of the chunk's.
        with_prefix: whether the prefix's rows are queries, too, before the chunk's.
        last: whether the end-of-text rows are the only queries.
    """
    images, rows, _ = qkv.shape
    size = chunk.mask.shape[1]
    prefix_groups = with_prefix and not last and rows > chunk.rows
    mask, queries, output = _plan(chunk, images, heads, prefix_groups, last)
    parts = qkv.view(images, rows, 3, heads, -1)
    prefix, packed = parts.split([rows - chunk.rows, chunk.rows], dim=1)
    if prefix_groups:
        padding = -prefix.shape[1] % size
        packed = torch.cat([F.pad(prefix, (0, 0, 0, 0, 0, 0, 0, padding)), packed], dim=1)
    # [3, B, groups, heads, rows of a group, D / heads]
    packed = packed.view(images, -1, size, *packed.shape[2:]).permute(3, 0, 1, 4, 2, 5)
    query, groups = packed[0], packed.shape[2]
    if queries is not None:
        query = parts[:, :, 0].index_select(1, queries.flatten())
        query = query.unflatten(1, queries.shape).transpose(2, 3)
    shared = prefix[:, None, :, 1:].permute(3, 0, 1, 4, 2, 5).expand(-1, -1, groups, -1, -1, -1)
    key, value = torch.cat([shared, packed[1:]], dim=4).flatten(1, 3)
    mixed = attend(query.flatten(0, 2), key, value, mask)
    mixed = mixed.view(query.shape).transpose(2, 3).flatten(3).flatten(1, 2)
    return mixed if output is None else mixed.index_select(1, output)


@lru_cache(maxsize=256)
def _plan(
    chunk: Chunk, images: int, heads: int, prefix_groups: bool, last: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The mask of all groups, ``[B * groups * heads, S, K]``.

    Then, if these are not all, the rows that are the queries of each group, ``[groups, S]``, and
    which queries are no padding.
    """
    (ends, mask), device = chunk.on_cpu, chunk.mask.device
    groups, size, keys = mask.shape
    shared = keys - size
    queries = output = None
    if last:
        of_groups = [ends[ends // size == group] for group in range(groups)]
        padded = pad_sequence(of_groups, batch_first=True, padding_value=-1)
        output = (padded.flatten() >= 0).nonzero()[:, 0].to(device)
        rows = torch.where(padded < 0, padded[:, :1], padded)
        mask = mask.take_along_dim((rows % size)[..., None], dim=1)
        queries = (rows + shared).to(device)
    elif prefix_groups:
        padding = -shared % size
        row = torch.arange(shared + padding).view(-1, size, 1)
        seen = (torch.arange(keys) <= row) & (torch.arange(keys) < shared)
        mask = torch.cat([mask.new_zeros(seen.shape).masked_fill(~seen, -torch.inf), mask])
        kept = torch.ones(shared + padding + groups * size, dtype=torch.bool)
        kept[shared : shared + padding] = False
        output = kept.nonzero()[:, 0].to(device) if padding else None
    mask = mask[None, :, None].expand(images, -1, heads, -1, -1).flatten(0, 2)
    return mask.to(device), queries, output
