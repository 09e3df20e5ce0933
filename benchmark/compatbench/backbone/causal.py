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

from compatbench.backbone.anatomy import Anatomy
from compatbench.backbone.memory import Ledger
from compatbench.backbone.packing import Chunk, Layout, pack
from compatbench.backbone.prompts import Prompts, replace_rows

CACHE = 3 * 2**20
"""Bytes of an MLP's hidden rows in a chunk: 384 rows of width 512 in float32.

Of 128 to 1,200 rows on an AMD EPYC (1 MiB of L2, 32 MiB of L3), 400 to 600 took least time,
256 took 4 % more, and both 128 and all at once 14 % more; the fewer, the less memory.
"""

ACCELERATOR_ROWS = 8192
"""Rows that keep an accelerator busy."""

_QUICK = 1.702


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
        mask = _expand_mask(chunk, images)
        memory = []
        for i, block in enumerate(self._blocks):
            if 0 < i <= len(deep):
                x = replace_rows(x, deep[i - 1])
            if swap is not None and i == swap.block:
                shared_rows, rows = x.split([shared, chunk.rows], dim=1)
                x = torch.cat([shared_rows, swap.apply(rows, chunk)], dim=1)
            last = chunk.last if block is self._blocks[-1] else None
            x, kept = block(x, shared, mask, last=last)
            memory.append(kept)
        return self._features(x), *memory

    def _run_chunk(
        self, chunk: Chunk, suffix: Tensor, swap: _PackedSwap | None, *memory: Tensor
    ) -> Tensor:
        images = len(memory[0])
        x = self._embed(chunk, suffix).expand(images, -1, -1)
        mask = _expand_mask(chunk, images)
        for i, (block, kept) in enumerate(zip(self._blocks, memory, strict=True)):
            if swap is not None and i == swap.block:
                x = swap.apply(x, chunk)
            last = chunk.last if block is self._blocks[-1] else None
            x, _ = block(x, 0, mask, kept, last)
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


def _expand_mask(chunk: Chunk, images: int) -> Tensor:
    """One mask per group of every image, ``[B * groups, 1, size, P + size]``."""
    return chunk.mask if images == 1 else chunk.mask.repeat(images, 1, 1, 1)


def _quick_mlp(mlp: Any, x: Tensor) -> Tensor:
    """An MLP with QuickGELU, ``u * sigmoid(1.702 u)``, as ``silu(1.702 u) / 1.702``.

    The factors are those of the matrix products, and cost nothing; what is kept for the
    gradient is half as much.
    """
    fc, proj = mlp.c_fc, mlp.c_proj
    rows = x.flatten(0, 1)
    hidden = torch.addmm(fc.bias, rows, fc.weight.T, beta=_QUICK, alpha=_QUICK)
    out = torch.addmm(proj.bias, F.silu(hidden), proj.weight.T, alpha=1 / _QUICK)
    return out.view_as(x)


class _Block:
    """A pre-norm block over ``[B, P + R, D]``: rows of the prefix, then packed rows."""

    def __init__(self, block: Any) -> None:
        from open_clip.transformer import QuickGELU

        self._block = block
        self._heads: int = block.attn.num_heads
        self._quick = type(block.mlp.gelu) is QuickGELU

    def __call__(
        self,
        x: Tensor,
        shared: int,
        mask: Tensor,
        memory: Tensor | None = None,
        last: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The block's output, and the keys and values of the prefix, ``[B, P, 2D]``.

        Args:
            x: the first ``shared`` rows are the prefix; without any, ``memory`` stands for it.
            mask: what is added to the scores, ``[B * groups, 1, size, P + size]``.
            memory: what this block returned for the prefix.
            last: packed rows that alone are wanted, ``[n]``; the output is ``[B, n, D]``.
        """
        attention = self._block.attn
        width = x.shape[-1]
        qkv = F.linear(self._block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        mixed = []
        if memory is None:
            prefix, qkv = qkv.split([shared, qkv.shape[1] - shared], dim=1)
            query, memory = prefix.split([width, 2 * width], dim=-1)
            if last is None:
                mixed.append(self._mix_prefix(query, memory))
            else:
                x = x[:, shared:]
        query, own = qkv.split([width, 2 * width], dim=-1)
        mixed.append(self._mix(query, own, memory, mask))
        both = mixed[0] if len(mixed) == 1 else torch.cat(mixed, dim=1)
        if last is not None:
            x, both = x.index_select(1, last), both.index_select(1, last)
        return self._finish(x, both), memory

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        block = self._block
        x = x + block.ls_1(block.attn.out_proj(mixed))
        rows = block.ln_2(x)
        return x + block.ls_2(_quick_mlp(block.mlp, rows) if self._quick else block.mlp(rows))

    def _mix_prefix(self, query: Tensor, memory: Tensor) -> Tensor:
        """Causal self-attention of the prefix, ``[B, P, D]``."""
        key, value = memory.chunk(2, dim=-1)
        query, key, value = (
            y.unflatten(-1, (self._heads, -1)).transpose(1, 2) for y in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)

    def _mix(self, query: Tensor, own: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Each packed row attends to the prefix and to its own suffix's past, ``[B, R, D]``."""
        images = len(memory)
        size = mask.shape[2]
        groups = len(mask) // images
        query = query.reshape(images * groups, size, self._heads, -1).transpose(1, 2)
        before = memory[:, None].expand(-1, groups, -1, -1).unflatten(-1, (2, self._heads, -1))
        own = own.unflatten(1, (groups, size)).unflatten(-1, (2, self._heads, -1))
        both = torch.cat([before, own], dim=2).flatten(0, 1)
        key, value = both.transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(images, groups * size, -1)

    def bytes(self, images: int, shared: int, chunk: Chunk, learned: bool) -> int:
        """Bytes that the backward pass needs of one block, from the sizes of what is saved."""
        width = self._block.attn.embed_dim
        hidden = self._block.mlp.c_fc.out_features
        rows = images * (shared + chunk.rows)
        keys = images * chunk.groups * chunk.mask.shape[-1]
        # Inputs of both norms, queries (with own keys and values), what was attended to,
        # the hidden rows; then the keys and values with the prefix's own copied in.
        values = rows * (6 * width + hidden) + keys * 2 * width
        if learned:  # outputs of both norms, and of the activation, for the matrices' gradients
            values += rows * (2 * width + hidden)
        return values * chunk.mask.element_size()
