"""A causal text tower pooled at the end-of-text token, run without redundant work.

Such a tower never looks past the end-of-text token, and what comes before a class's own
tokens is the same for every class. So padding is not computed, the shared prefix runs once,
each class's suffix attends to the prefix's keys and values, and the last block computes the
end-of-text rows only. Features and gradients equal open_clip's own up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compatbench.backbone.text.anatomy import Anatomy
from compatbench.backbone.text.attention import attend, plan_chunk
from compatbench.backbone.text.memory import SelectiveCheckpoint
from compatbench.backbone.text.packing import Chunk, Layout, pack
from compatbench.backbone.text.prompts import Prompts, replace_rows
from compatbench.backbone.text.standard_block import StandardBlock

CACHE = 3 * 2**20
"""Bytes of an MLP's hidden rows in a chunk: 384 rows of width 512 in float32.

Of 128 to 1,200 rows on an AMD EPYC (1 MiB of L2, 32 MiB of L3), 400 to 600 took least time,
256 took 4 % more, and both 128 and all at once 14 % more; the fewer, the less memory.
"""

ACCELERATOR_ROWS = 8192
"""Rows that keep an accelerator busy."""


class CausalTower:
    """Runs standard blocks over packed rows, as the module's docstring describes.

    Args:
        learned: whether gradients of the tower's own weights will be needed.
    """

    def __init__(self, anatomy: Anatomy, learned: bool = False) -> None:
        self._anatomy = anatomy
        self._blocks = [_Block(block) for block in anatomy.blocks]
        self._learned = learned

    def encode(self, prompts: Prompts) -> Tensor:
        """Features of prompts, ``[n, e]``, or ``[B, n, e]`` for B prefixes."""
        prefix = prompts.prefix if prompts.prefix.ndim == 3 else prompts.prefix[None]
        dtype, device = self._anatomy.positions.dtype, self._anatomy.positions.device
        rows, stride = chunk_rows(self._anatomy), prompts.suffix.shape[1]
        layout = pack(prompts.lengths, prompts.shared, stride, rows, dtype, device)
        suffix = prompts.suffix.flatten(0, 1)
        prefix = prefix + self._anatomy.positions[: prompts.shared]
        parts = prefix.split(max(1, round(rows / (prompts.shared + layout.chunks[0].rows))))
        learned = self._learned or prompts.need_gradients
        checkpoint = SelectiveCheckpoint(self._sizes(layout, parts), device, learned)
        features = [self._run_images(part, suffix, prompts, layout, checkpoint) for part in parts]
        found = features[0] if len(features) == 1 else torch.cat(features)
        return found if prompts.prefix.ndim == 3 else found[0]

    def _sizes(self, layout: Layout, parts: tuple[Tensor, ...]) -> list[int]:
        """Bytes kept for the backward pass of each chunk, in the order in which they run."""
        return [
            sum(
                block.bytes(len(part), 0 if i else part.shape[1], chunk, self._learned)
                for block in self._blocks
            )
            for part in parts
            for i, chunk in enumerate(layout.chunks)
        ]

    def _run_images(
        self,
        prefix: Tensor,
        suffix: Tensor,
        prompts: Prompts,
        layout: Layout,
        checkpoint: SelectiveCheckpoint,
    ) -> Tensor:
        """All classes with the prefixes ``[B, P, D]`` of a few images, ``[B, n, e]``."""
        first, *others = layout.chunks
        swap = _PackedSwap.of(prompts)
        features, *kept = checkpoint.run(
            self._run_first, first, suffix, swap, prefix, *prompts.deep
        )
        parts = [features]
        for chunk in others:
            parts.append(checkpoint.run(self._run_chunk, chunk, suffix, swap, *kept))
        return torch.cat(parts, dim=1).index_select(1, layout.restore)

    def _run_first(
        self,
        chunk: Chunk,
        suffix: Tensor,
        swap: _PackedSwap | None,
        prefix: Tensor,
        *deep: Tensor,
    ) -> tuple[Tensor, ...]:
        """Features of the first chunk, and each block's projections of the prefix."""
        images, shared, _ = prefix.shape
        rows = self._embed(chunk, suffix).expand(images, -1, -1)
        x = torch.cat([prefix, rows], dim=1)
        kept = []
        for i, block in enumerate(self._blocks):
            if 0 < i <= len(deep):
                x = replace_rows(x, deep[i - 1])
            if swap is not None and i == swap.block:
                shared_rows, rows = x.split([shared, chunk.rows], dim=1)
                x = torch.cat([shared_rows, swap.apply(rows, chunk)], dim=1)
            x, projections = block(x, chunk, shared, last=block is self._blocks[-1])
            kept.append(projections)
        return self._features(x), *kept

    def _run_chunk(
        self, chunk: Chunk, suffix: Tensor, swap: _PackedSwap | None, *kept: Tensor
    ) -> Tensor:
        """Features of another chunk, which attends to what was kept of the prefix."""
        x = self._embed(chunk, suffix).expand(len(kept[0]), -1, -1)
        for i, (block, projections) in enumerate(zip(self._blocks, kept, strict=True)):
            if swap is not None and i == swap.block:
                x = swap.apply(x, chunk)
            x, _ = block(x, chunk, 0, projections, last=block is self._blocks[-1])
        return self._features(x)

    def _embed(self, chunk: Chunk, suffix: Tensor) -> Tensor:
        positions = self._anatomy.positions.index_select(0, chunk.position)
        return suffix.index_select(0, chunk.source) + positions

    def _features(self, x: Tensor) -> Tensor:
        return self._anatomy.project(self._anatomy.ln_final(x))


@dataclass(frozen=True)
class _PackedSwap:
    """A swap with its rows at their places among all suffixes, ``[n * S, D]``."""

    block: int
    rows: Tensor
    count: int
    stride: int

    @classmethod
    def of(cls, prompts: Prompts) -> _PackedSwap | None:
        """The swap of prompts with suffixes of S rows, of which the first m are replaced."""
        swap, stride = prompts.swap, prompts.suffix.shape[1]
        return swap and cls(swap.block, swap.fill(stride), swap.rows.shape[1], stride)

    def apply(self, x: Tensor, chunk: Chunk) -> Tensor:
        """Packed rows ``[B, R, D]`` with those of the first m rows of suffixes replaced."""
        replaced = (chunk.source % self.stride < self.count)[:, None]
        return torch.where(replaced, self.rows.index_select(0, chunk.source), x)


def chunk_rows(anatomy: Anatomy) -> int:
    """The best number of rows to run through a tower together.

    It depends on neither the memory budget nor the number of threads: other chunks would
    round differently, and the same fit would end with other last digits.
    """
    positions = anatomy.positions
    if positions.device.type != "cpu":
        return ACCELERATOR_ROWS
    return max(64, CACHE // (4 * positions.shape[1] * positions.element_size()))


class _Block(StandardBlock):
    """A block over ``[B, P + R, D]``: rows of the prefix, then packed rows."""

    def __call__(
        self,
        x: Tensor,
        chunk: Chunk,
        shared: int,
        kept: Tensor | None = None,
        last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The block's output, and the projections of the prefix, ``[B, P, 3D]``.

        Args:
            x: the first ``shared`` rows are the prefix; without any, ``kept`` replaces it.
            chunk: what the rows behind the prefix are.
            kept: the projections that this block returned for the prefix.
            last: compute the end-of-text rows only; the output is ``[B, n, D]``.
        """
        qkv = self.project(self.block.ln_1(x))
        if kept is None:
            kept = qkv[:, :shared].clone()  # a view would keep all of it
        else:
            qkv = torch.cat([kept, qkv], dim=1)
        mixed = attend(qkv, plan_chunk(chunk, len(qkv), self.heads, shared > 0, last))
        if last:
            x = x.index_select(1, chunk.last + shared)
        return self.finish(x, mixed), kept

    def bytes(self, images: int, shared: int, chunk: Chunk, learned: bool) -> int:
        """Bytes that the backward pass needs of one block, from the sizes of what is saved."""
        width = self.block.attn.embed_dim
        hidden = self.block.mlp.c_fc.out_features
        rows = images * (shared + chunk.rows)
        size, keys = chunk.mask.shape[2:]
        groups = chunk.groups + -(-shared // size)
        # Inputs of both norms, the hidden rows; gathered queries, keys and values, and scores.
        values = rows * (2 * width + hidden)
        values += images * groups * (size * width + keys * 2 * width + self.heads * size * keys)
        if learned:  # what the matrices' gradients need: outputs of norms, attention, activation
            values += rows * (3 * width + hidden)
        return values * chunk.mask.element_size()
