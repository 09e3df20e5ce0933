"""A causal text tower pooled at the end-of-text token, run without redundant work.

Such a tower never looks past the end-of-text token, and what comes before a class's own
tokens is the same for every class. So padding is not computed, the shared prefix runs once,
each class's suffix attends to the prefix's keys and values, and the last block computes the
end-of-text rows only. Features and gradients equal open_clip's own up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone.text.anatomy import Anatomy
from compatbench.backbone.text.memory import SelectiveCheckpoint
from compatbench.backbone.text.packing import Chunk, attend_packed, pack
from compatbench.backbone.text.prompts import Prompts, Swap, replace_rows
from compatbench.backbone.text.standard_block import StandardBlock

CACHE = 3 * 2**20
"""Bytes of an MLP's hidden rows in a chunk: 384 rows of width 512 in float32.

Of 128 to 1,200 rows on an AMD EPYC (1 MiB of L2, 32 MiB of L3), 400 to 600 took least time,
256 took 4 % more, and both 128 and all at once 14 % more; the fewer, the less memory.
"""

ACCELERATOR_ROWS = 8192
"""Rows that keep an accelerator busy."""


def chunk_rows(anatomy: Anatomy) -> int:
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

    def __init__(self, anatomy: Anatomy, learned: bool = False) -> None:
        self._anatomy = anatomy
        self._blocks = [_Block(block) for block in anatomy.blocks]
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
            found, *kept = checkpoint.run(self._run_chunk, chunks[0], prompts, part)
            own = [found]
            for chunk in chunks[1:]:
                own += checkpoint.run(self._run_chunk, chunk, prompts, part[:, :0], *kept)[:1]
            features.append(torch.cat(own, dim=1).index_select(1, restore))
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
                own = _swap_packed(x[:, shared:], swap, chunk, prompts.suffix.shape[1])
                x = torch.cat([x[:, :shared], own], dim=1)
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

    def __call__(
        self, x: Tensor, chunk: Chunk, shared: int, kept: Tensor | None, last: bool
    ) -> tuple[Tensor, Tensor]:
        """The block's output, and the projections of the prefix, ``[B, P, 3D]``.

        The first ``shared`` rows of x are the prefix; without any, ``kept``, which this block
        returned for it, replaces them. ``last``: the end-of-text rows alone are computed.
        """
        qkv = self.project(self.block.ln_1(x))
        if kept is None:
            kept = qkv[:, :shared].clone()  # a view would keep all of it
        else:
            qkv = torch.cat([kept, qkv], dim=1)
        mixed = attend_packed(qkv, chunk, self.heads, shared > 0, last)
        if last:
            x = x.index_select(1, chunk.last + shared)
        return self.finish(x, mixed), kept

    def bytes(self, images: int, shared: int, chunk: Chunk, learned: bool) -> int:
        """Bytes that the backward pass needs of one block, from the sizes of what is saved."""
        width = self.block.attn.embed_dim
        hidden = self.block.mlp.c_fc.out_features
        rows = images * (shared + chunk.rows)
        size, keys = chunk.mask.shape[1:]
        groups = len(chunk.mask) + -(-shared // size)
        # Inputs of both norms, the hidden rows; gathered queries, keys and values, and scores.
        values = rows * (2 * width + hidden)
        values += images * groups * (size * width + keys * 2 * width + self.heads * size * keys)
        if learned:  # what the matrices' gradients need: outputs of norms, attention, activation
            values += rows * (3 * width + hidden)
        return values * chunk.mask.element_size()
