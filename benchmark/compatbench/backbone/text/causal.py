"""A causal text tower pooled at the end-of-text token, run without waste.

Such a tower never looks past the end-of-text token, and what comes before a class's own
tokens is the same for every class. So padding is never computed, the shared prefix runs
once, each class's suffix attends to the prefix's keys and values, and in the last block
only the end-of-text rows are needed. Features and gradients equal open_clip's own up to
rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone.text.anatomy import Anatomy
from compatbench.backbone.text.attention import attend, plan_chunk
from compatbench.backbone.text.memory import Ledger
from compatbench.backbone.text.mlp import is_quick, quick_mlp
from compatbench.backbone.text.packing import Chunk, Layout, pack
from compatbench.backbone.text.prompts import Prompts, replace_rows

CACHE = 3 * 2**20
"""Bytes of an MLP's hidden rows in a chunk: 384 rows of width 512 in float32.

Of 128 to 1,200 rows on an AMD EPYC (1 MiB of L2, 32 MiB of L3), 400 to 600 took least time,
256 took 4 % more, and both 128 and all at once 14 % more; the fewer, the less memory.
"""

ACCELERATOR_ROWS = 8192
"""Rows that keep an accelerator busy."""


class CausalTower:
    """Runs standard blocks from packed rows; see the module's own words for how."""

    def __init__(self, anatomy: Anatomy, learned: bool = False) -> None:
        """``learned`` says that gradients of the tower's own weights will be asked for."""
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
        ledger = Ledger(self._sizes(layout, parts), device, learned)
        features = [self._run_images(part, suffix, prompts, layout, ledger) for part in parts]
        found = features[0] if len(features) == 1 else torch.cat(features)
        return found if prompts.prefix.ndim == 3 else found[0]

    def _sizes(self, layout: Layout, parts: tuple[Tensor, ...]) -> list[int]:
        """Bytes kept for the backward pass of each chunk, in the order in which they run."""
        sizes = []
        for part in parts:
            for i, chunk in enumerate(layout.chunks):
                shared = part.shape[1] if i == 0 else 0
                sizes.append(
                    sum(
                        block.bytes(len(part), shared, chunk, self._learned)
                        for block in self._blocks
                    )
                )
        return sizes

    def _run_images(
        self,
        prefix: Tensor,
        suffix: Tensor,
        prompts: Prompts,
        layout: Layout,
        ledger: Ledger,
    ) -> Tensor:
        """All classes with the prefixes ``[B, P, D]`` of a few images, ``[B, n, e]``."""
        first, *others = layout.chunks
        swap, deep = _PackedSwap.of(prompts), prompts.deep
        features, *memory = ledger.run(self._run_first, first, suffix, swap, prefix, *deep)
        parts = [features]
        for chunk in others:
            parts.append(ledger.run(self._run_chunk, chunk, suffix, swap, *memory))
        return torch.cat(parts, dim=1).index_select(1, layout.restore)

    def _run_first(
        self,
        chunk: Chunk,
        suffix: Tensor,
        swap: _PackedSwap | None,
        prefix: Tensor,
        *deep: Tensor,
    ) -> tuple[Tensor, ...]:
        """Features of the first chunk, and what the prefix leaves for the others to attend to."""
        images, shared, _ = prefix.shape
        rows = self._embed(chunk, suffix).expand(images, -1, -1)
        x = torch.cat([prefix, rows], dim=1)
        memory = []
        for i, block in enumerate(self._blocks):
            if 0 < i <= len(deep):
                x = replace_rows(x, deep[i - 1])
            if swap is not None and i == swap.block:
                shared_rows, rows = x.split([shared, chunk.rows], dim=1)
                x = torch.cat([shared_rows, swap.apply(rows, chunk)], dim=1)
            last = block is self._blocks[-1]
            x, kept = block(x, chunk, shared, last=last)
            memory.append(kept)
        return self._features(x), *memory

    def _run_chunk(
        self, chunk: Chunk, suffix: Tensor, swap: _PackedSwap | None, *memory: Tensor
    ) -> Tensor:
        images = len(memory[0])
        x = self._embed(chunk, suffix).expand(images, -1, -1)
        for i, (block, kept) in enumerate(zip(self._blocks, memory, strict=True)):
            if swap is not None and i == swap.block:
                x = swap.apply(x, chunk)
            x, _ = block(x, chunk, 0, kept, last=block is self._blocks[-1])
        return self._features(x)

    def _embed(self, chunk: Chunk, suffix: Tensor) -> Tensor:
        positions = self._anatomy.positions.index_select(0, chunk.position)
        return suffix.index_select(0, chunk.source) + positions

    def _features(self, x: Tensor) -> Tensor:
        return self._anatomy.project(self._anatomy.ln_final(x))


@dataclass(frozen=True)
class _PackedSwap:
    """A swap as packed rows see it.

    Attributes:
        rows: its rows at their places among the suffixes, ``[n * S, D]``.
        count: rows m that are replaced in every suffix.
        stride: rows S between one suffix and the next.
    """

    block: int
    rows: Tensor
    count: int
    stride: int

    @classmethod
    def of(cls, prompts: Prompts) -> _PackedSwap | None:
        swap, stride = prompts.swap, prompts.suffix.shape[1]
        if swap is None:
            return None
        return cls(swap.block, swap.fill(stride), swap.rows.shape[1], stride)

    def apply(self, x: Tensor, chunk: Chunk) -> Tensor:
        """Packed rows ``[B, R, D]`` with those of the first m rows of suffixes replaced."""
        replaced = (chunk.source % self.stride < self.count)[:, None]
        return torch.where(replaced, self.rows.index_select(0, chunk.source), x)


def chunk_rows(anatomy: Anatomy) -> int:
    """Rows that go through a tower together at best.

    Not a matter of the budget, nor of the number of threads: another cut would round
    otherwise, and the same fit would end elsewhere in its last digits.
    """
    positions = anatomy.positions
    if positions.device.type != "cpu":
        return ACCELERATOR_ROWS
    return max(64, CACHE // (4 * positions.shape[1] * positions.element_size()))


class _Block:
    """A pre-norm block over ``[B, P + R, D]``: rows of the prefix, then packed rows."""

    def __init__(self, block: Any) -> None:
        self._block = block
        self._heads: int = block.attn.num_heads
        self._quick = is_quick(block.mlp)

    def __call__(
        self,
        x: Tensor,
        chunk: Chunk,
        shared: int,
        memory: Tensor | None = None,
        last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """The block's output, and the projections of the prefix, ``[B, P, 3D]``.

        Args:
            x: the first ``shared`` rows are the prefix; without any, ``memory`` stands for it.
            chunk: what the rows behind the prefix are.
            memory: what this block returned for the prefix.
            last: the end-of-text rows alone are wanted; the output is ``[B, n, D]``.
        """
        attention = self._block.attn
        qkv = F.linear(self._block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        if memory is None:
            memory = qkv[:, :shared].clone()  # a view would keep all of it
        else:
            qkv = torch.cat([memory, qkv], dim=1)
        mixed = attend(qkv, plan_chunk(chunk, len(qkv), self._heads, shared > 0, last))
        if last:
            x = x.index_select(1, chunk.last + shared)
        return self._finish(x, mixed), memory

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        block = self._block
        x = x + block.ls_1(block.attn.out_proj(mixed))
        rows = block.ln_2(x)
        return x + block.ls_2(quick_mlp(block.mlp, rows) if self._quick else block.mlp(rows))

    def bytes(self, images: int, shared: int, chunk: Chunk, learned: bool) -> int:
        """Bytes that the backward pass needs of one block, from the sizes of what is saved."""
        width = self._block.attn.embed_dim
        hidden = self._block.mlp.c_fc.out_features
        rows = images * (shared + chunk.rows)
        size, keys = chunk.mask.shape[2:]
        groups = chunk.groups + -(-shared // size)
        # Inputs of both norms, the hidden rows; gathered queries, keys and values, and scores.
        values = rows * (2 * width + hidden)
        values += images * groups * (size * width + keys * 2 * width + self._heads * size * keys)
        if learned:  # what the matrices' gradients need: outputs of norms, attention, activation
            values += rows * (3 * width + hidden)
        return values * chunk.mask.element_size()
