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

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, pairwise

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

We timed 128 to 1,200 rows on an AMD EPYC (1 MiB of L2, 32 MiB of L3). 400 to 600 rows were
fastest, 256 rows took 4 % longer, and both 128 rows and all rows at once took 14 % longer.
Fewer rows also need less memory.
"""

ACCELERATOR_ROWS = 8192
"""Rows that keep an accelerator busy."""

GROUP = 32
"""Rows of a group that holds several suffixes; longer suffixes make longer groups."""


def chunk_rows(anatomy: TextAnatomy) -> int:
    """Return the best number of rows to run through a tower together.

    The number depends on neither the memory budget nor the number of threads: other chunks
    round differently, so the same fit would end with other last digits.
    """
    positions = anatomy.positions
    if positions.device.type != "cpu":
        return ACCELERATOR_ROWS
    return max(64, CACHE // (4 * positions.shape[1] * positions.element_size()))


class CausalTower:
    """A text tower that runs standard blocks over packed rows.

    ``learned`` has the same meaning as in ``PlainTower``.
    """

    def __init__(
        self, anatomy: TextAnatomy, learned: bool = False, updates: BlockUpdates | None = None
    ) -> None:
        self._anatomy = anatomy
        block_updates = updates_of(updates, len(anatomy.blocks), "text")
        self._blocks = [_Block(*pair) for pair in zip(anatomy.blocks, block_updates, strict=True)]
        self._learned = learned

    def encode(self, prompts: Prompts) -> Tensor:
        """Return the features of prompts, ``[n, e]``, or ``[B, n, e]`` for B prefixes."""
        positions = self._anatomy.positions
        rows = chunk_rows(self._anatomy)
        chunks, restore = pack(
            prompts.lengths,
            prompts.shared,
            prompts.suffix.shape[1],
            rows,
            positions.dtype,
            positions.device,
        )
        prefix = prompts.prefixes + positions[: prompts.shared]
        # With many prefixes, as many run together as make about ``rows`` rows with a chunk.
        parts = prefix.split(max(1, round(rows / (prompts.shared + chunks[0].rows))))
        sizes = self._chunk_sizes(parts, chunks)
        learned = self._learned or prompts.need_gradients
        checkpoint = SelectiveCheckpoint(sizes, positions.device, learned)
        features = []
        for part in parts:
            # The first chunk runs with the prefix. The others reuse the prefix's projections.
            first, *kept = checkpoint.run(self._run_chunk, chunks[0], prompts, part)
            chunk_features = [first]
            no_prefix = part[:, :0]
            for chunk in chunks[1:]:
                results = checkpoint.run(self._run_chunk, chunk, prompts, no_prefix, *kept)
                chunk_features.append(results[0])
            features.append(torch.cat(chunk_features, dim=1).index_select(1, restore))
        return prompts.unflatten(torch.cat(features))

    def _chunk_sizes(self, parts: Sequence[Tensor], chunks: list[Chunk]) -> list[int]:
        """Return the bytes that each piece keeps for the backward pass, in the order of a run."""
        sizes = []
        for part in parts:
            shared = part.shape[1]
            for chunk in chunks:
                blocks = [
                    block.bytes(len(part), shared, chunk, self._learned) for block in self._blocks
                ]
                sizes.append(sum(blocks))
                shared = 0  # only the first chunk runs the prefix
        return sizes

    def _run_chunk(
        self, chunk: Chunk, prompts: Prompts, prefix: Tensor, *kept: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the features of a chunk, then each block's projections of the prefix.

        Args:
            prefix: the prefix's embedded rows, ``[B, P, D]``; no rows if its projections are
                given as ``kept``.
        """
        suffix = prompts.suffix.flatten(0, 1).index_select(0, chunk.source)
        rows = suffix + self._anatomy.positions.index_select(0, chunk.position)
        x = torch.cat([prefix, rows.expand(len(prefix), -1, -1)], dim=1)
        deep = prompts.deep
        swap = prompts.swap
        shared = prefix.shape[1]
        projections = []
        for i, block in enumerate(self._blocks):
            if 0 < i <= len(deep) and not kept:
                x = replace_rows(x, deep[i - 1])
            if swap is not None and i == swap.block:
                packed = _swap_packed(x[:, shared:], swap, chunk, prompts.suffix.shape[1])
                x = torch.cat([x[:, :shared], packed], dim=1)
            prefix_projections = kept[i] if kept else None
            is_last = i + 1 == len(self._blocks)
            x, projected = block(x, chunk, shared, prefix_projections, is_last)
            projections.append(projected)
        features = self._anatomy.project(self._anatomy.ln_final(x))
        return features, *projections


def _swap_packed(x: Tensor, swap: Swap, chunk: Chunk, stride: int) -> Tensor:
    """Return packed rows ``[B, R, D]`` with the first m rows of each suffix replaced."""
    count = swap.rows.shape[1]
    padded = F.pad(swap.rows, (0, 0, 0, stride - count))
    rows = padded.flatten(0, 1).index_select(0, chunk.source)
    is_replaced = chunk.source % stride < count
    return torch.where(is_replaced[:, None], rows, x)


class _Block(StandardBlock):
    """A block over ``[B, P + R, D]``: rows of the prefix, then packed rows."""

    def __init__(self, block: nn.Module, updates: Updates) -> None:
        super().__init__(block)
        self._updates = updates

    def __call__(
        self, x: Tensor, chunk: Chunk, shared: int, kept: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the block's output, and the projections of the prefix, ``[B, P, 3D]``.

        The first ``shared`` rows of x are the prefix. If there are none, ``kept`` replaces them:
        the projections that this block returned for the prefix before. With ``last``, only the
        end-of-text rows are computed.
        """
        normed = self.block.ln_1(x)
        qkv = self.project(normed)
        if self._updates:
            qkv = apply_to_projections(self._updates, qkv, normed)
        else:
            normed = x  # no update reads it, so the memory of the normed rows is freed
        if kept is None:
            kept = qkv[:, :shared].clone()  # a view would keep all of ``qkv`` in memory
        else:
            qkv = torch.cat([kept, qkv], dim=1)
        mixed = attend_packed(qkv, chunk, self.heads, shared > 0, last)
        if last:
            ends = chunk.last + shared
            x = x.index_select(1, ends)
            if self._updates:
                normed = normed.index_select(1, ends)
        return self.finish(x, mixed, self._updates, normed), kept

    def bytes(self, images: int, shared: int, chunk: Chunk, learned: bool) -> int:
        """Return the bytes that one block saves for the backward pass."""
        width = self.block.attn.out_proj.out_features
        hidden = self.block.mlp.c_fc.out_features
        rows = images * (shared + chunk.rows)
        size, keys = chunk.mask.shape[1:]
        prefix_groups = -(-shared // size)
        groups = len(chunk.mask) + prefix_groups
        # The inputs of both norms, and the hidden rows.
        values = rows * (2 * width + hidden)
        # The gathered queries, keys and values, and the scores.
        values += images * groups * (size * width + keys * 2 * width + self.heads * size * keys)
        values += rows * 2 * width * len(self._updates)
        if learned:
            # The matrices' gradients need the outputs of norms, attention and activation.
            values += rows * (3 * width + hidden)
        return values * chunk.mask.element_size()


@dataclass(frozen=True, eq=False)
class Chunk:
    """A run of groups that go through the tower together; a chunk is equal only to itself."""

    source: Tensor  # packed row ``r`` is row ``source[r]`` of the suffixes ``[n * S, D]``, ``[R]``
    position: Tensor  # position of each packed row in its prompt, ``[R]``
    last: Tensor  # packed row of each end-of-text token, ``[classes]``
    mask: Tensor  # added to the scores, ``[groups, size, P + size]``
    on_cpu: tuple[Tensor, Tensor]  # ``last`` and ``mask``, so that a plan never waits for a device

    @property
    def rows(self) -> int:
        """Return the number R of packed rows."""
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
    """Return chunks of suffixes, and the index of each class in ``torch.cat(features)``, ``[n]``.

    The result is cached, as a fit needs it at every step.

    Args:
        lengths: rows of each suffix.
        shared: rows P of the prefix.
        stride: rows S from the start of one suffix to the start of the next, in ``[n * S, D]``.
        chunk_rows: about how many packed rows a chunk holds.
    """
    size, groups = _best_groups(lengths)
    count = max(1, round(len(groups) * size / chunk_rows))
    bounds = [len(groups) * i // count for i in range(count + 1)]
    chunks = []
    for start, end in pairwise(bounds):
        if start < end:
            part = groups[start:end]
            chunks.append(_pack_groups(part, size, lengths, shared, stride, dtype, device))
    order = torch.tensor(list(chain(*groups)))
    return chunks, order.argsort().to(device, non_blocking=True)


def _pack_groups(
    groups: list[list[int]],
    size: int,
    lengths: tuple[int, ...],
    shared: int,
    stride: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Chunk:
    """Return the chunk of some groups of classes; the arguments are those of ``pack``."""
    # Padding copies a row that exists, as rows beyond a suffix's length may hold anything.
    # It attends to the prefix and to itself, and no other row attends to it.
    source = torch.full((len(groups), size), groups[0][0] * stride)
    position = torch.full((len(groups), size), shared)
    owner = torch.arange(-size, 0).repeat(len(groups), 1)
    last = []
    for number, group in enumerate(groups):
        row = 0
        for i in group:
            place = slice(row, row + lengths[i])
            offsets = torch.arange(lengths[i])
            source[number, place] = i * stride + offsets
            position[number, place] = shared + offsets
            owner[number, place] = i
            row += lengths[i]
            last.append(number * size + row - 1)
    same_suffix = (owner[:, :, None] == owner[:, None, :]).tril()
    hidden = F.pad(~same_suffix, (shared, 0))
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill(hidden, -torch.inf)
    ends = torch.tensor(last)
    return Chunk(
        source=source.flatten().to(device, non_blocking=True),
        position=position.flatten().to(device, non_blocking=True),
        last=ends.to(device, non_blocking=True),
        mask=mask.to(device, non_blocking=True),
        on_cpu=(ends, mask),
    )


def _best_groups(lengths: tuple[int, ...]) -> tuple[int, list[list[int]]]:
    """Return the group size that leaves the fewest rows, and the classes of each group."""
    longest = max(lengths)
    # A group larger than all suffixes together would only be padding.
    largest = max(longest, min(sum(lengths), GROUP))
    smallest = max(longest, largest // 2)
    candidates = ((size, _fill(lengths, size)) for size in range(largest, smallest - 1, -1))
    return min(candidates, key=lambda candidate: candidate[0] * len(candidate[1]))


def _fill(lengths: tuple[int, ...], size: int) -> list[list[int]]:
    """Return groups of classes whose suffixes fit ``size`` rows (first-fit decreasing)."""
    waiting = {length: [] for length in sorted(set(lengths), reverse=True)}
    for i in reversed(range(len(lengths))):
        waiting[lengths[i]].append(i)
    groups = []
    left = len(lengths)
    while left:
        group = []
        room = size
        for length, classes in waiting.items():
            while classes and length <= room:
                group.append(classes.pop())
                room -= length
        left -= len(group)
        groups.append(group)
    return groups


def attend_packed(qkv: Tensor, chunk: Chunk, heads: int, with_prefix: bool, last: bool) -> Tensor:
    """Return the output of attention, ``[B, rows, D]``, from projections ``[B, P + R, 3D]``.

    Args:
        qkv: projections of the prefix's rows, then of the chunk's.
        with_prefix: if True, the prefix's rows are queries too, before the chunk's.
        last: if True, the end-of-text rows are the only queries.
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
    query = packed[0]
    groups = packed.shape[2]
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
    """Return the mask of all groups ``[B * groups * heads, S, K]``, queries and output rows.

    The queries are the rows of each group that are queries, ``[groups, S]``, or None for all.
    The output rows are the indices of the queries that are not padding, or None for all.
    """
    ends, mask = chunk.on_cpu
    device = chunk.mask.device
    groups, size, keys = mask.shape
    shared = keys - size
    queries = None
    output = None
    if last:
        group_ends = [ends[ends // size == group] for group in range(groups)]
        padded = pad_sequence(group_ends, batch_first=True, padding_value=-1)
        output = (padded.flatten() >= 0).nonzero()[:, 0].to(device)
        # Padding repeats the group's first query.
        rows = torch.where(padded < 0, padded[:, :1], padded)
        mask = mask.take_along_dim((rows % size)[..., None], dim=1)
        queries = (rows + shared).to(device)
    elif prefix_groups:
        padding = -shared % size
        row = torch.arange(shared + padding).view(-1, size, 1)
        # The prefix attends to its own past, and never to a suffix.
        seen = (torch.arange(keys) <= row) & (torch.arange(keys) < shared)
        prefix_mask = mask.new_zeros(seen.shape).masked_fill(~seen, -torch.inf)
        mask = torch.cat([prefix_mask, mask])
        if padding:
            kept = torch.ones(shared + padding + groups * size, dtype=torch.bool)
            kept[shared : shared + padding] = False
            output = kept.nonzero()[:, 0].to(device)
    mask = mask[None, :, None].expand(images, -1, heads, -1, -1).flatten(0, 2)
    return mask.to(device), queries, output
