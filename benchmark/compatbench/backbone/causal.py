"""A causal text tower pooled at the end-of-text token, run without waste.

Such a tower never looks past the end-of-text token, and what comes before a class's own
tokens is the same for every class. So padding is never computed, the shared prefix runs
once, each class's suffix attends to the prefix's keys and values, and in the last block
only the end-of-text rows are needed. Features and gradients equal open_clip's own up to
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone.anatomy import Anatomy
from compatbench.backbone.memory import Ledger
from compatbench.backbone.packing import Chunk, Layout, pack
from compatbench.backbone.prompts import Prompts, replace_rows

Memory = list[Tensor]
"""Keys and values of the prefix in every block, each ``[B, P, 2D]``."""

CACHE = 3 * 2**20
"""Bytes of an MLP's hidden rows that a processor's cache holds well (measured: docs/speed.md)."""

ACCELERATOR_ROWS = 8192
"""Rows that keep an accelerator busy."""

_QUICK = 1.702


class CausalTower:
    """Runs standard blocks from packed rows; see the module's own words for how."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._blocks = [_Block(block) for block in anatomy.blocks]

    def encode(self, prompts: Prompts) -> Tensor:
        """Features of prompts, ``[n, e]``, or ``[B, n, e]`` for B prefixes."""
        prefix = prompts.prefix if prompts.prefix.ndim == 3 else prompts.prefix[None]
        dtype, device = self._anatomy.positions.dtype, self._anatomy.positions.device
        rows = chunk_rows(self._anatomy)
        suffix = prompts.suffix
        layout = pack(prompts.lengths, prompts.shared, suffix.shape[1], rows, dtype, device)
        suffix = suffix.to(dtype).flatten(0, 1)
        prefix = prefix.to(dtype) + self._anatomy.positions[: prompts.shared]
        deep = [rows.to(dtype) for rows in prompts.deep]
        images = max(1, round(rows / (prompts.shared + layout.chunks[0].rows)))
        parts = prefix.split(images)
        ledger = Ledger(self._sizes(layout, parts), device) if prompts.need_gradients else None
        features = [self._run_images(part, suffix, deep, layout, ledger) for part in parts]
        found = features[0] if len(features) == 1 else torch.cat(features)
        return found if prompts.prefix.ndim == 3 else found[0]

    def _sizes(self, layout: Layout, parts: tuple[Tensor, ...]) -> list[int]:
        """Bytes kept for the backward pass of each chunk, in the order in which they run."""
        sizes = []
        for part in parts:
            for i, chunk in enumerate(layout.chunks):
                shared = part.shape[1] if i == 0 else 0
                sizes.append(sum(block.bytes(len(part), shared, chunk) for block in self._blocks))
        return sizes

    def _run_images(
        self,
        prefix: Tensor,
        suffix: Tensor,
        deep: list[Tensor],
        layout: Layout,
        ledger: Ledger | None,
    ) -> Tensor:
        """All classes with the prefixes ``[B, P, D]`` of a few images, ``[B, n, e]``."""
        first, *others = layout.chunks
        run = (lambda f, *arguments: f(*arguments)) if ledger is None else ledger.run
        features, *memory = run(self._run_first, first, suffix, prefix, *deep)
        parts = [features, *(run(self._run_chunk, chunk, suffix, *memory) for chunk in others)]
        return torch.cat(parts, dim=1).index_select(1, layout.restore)

    def _run_first(
        self, chunk: Chunk, suffix: Tensor, prefix: Tensor, *deep: Tensor
    ) -> tuple[Tensor, ...]:
        """Features of the first chunk, and what the prefix leaves for the others to attend to."""
        images, shared, _ = prefix.shape
        rows = self._embed(chunk, suffix).expand(images, -1, -1)
        x = torch.cat([prefix, rows], dim=1)
        mask = _expand_mask(chunk, images)
        memory = []
        replacements: Iterator[Tensor | None] = iter([None, *deep])
        for block in self._blocks[:-1]:
            rows = next(replacements, None)
            x = x if rows is None else replace_rows(x, rows)
            x, kept = block(x, shared, mask)
            memory.append(kept)
        rows = next(replacements, None)
        x = x if rows is None else replace_rows(x, rows)
        x, kept = self._blocks[-1].last(x, shared, mask, chunk.last)
        return self._features(x), *memory, kept

    def _run_chunk(self, chunk: Chunk, suffix: Tensor, *memory: Tensor) -> Tensor:
        images = len(memory[0])
        x = self._embed(chunk, suffix).expand(images, -1, -1)
        mask = _expand_mask(chunk, images)
        for block, kept in zip(self._blocks[:-1], memory[:-1], strict=True):
            x, _ = block(x, 0, mask, kept)
        x, _ = self._blocks[-1].last(x, 0, mask, chunk.last, memory[-1])
        return self._features(x)

    def _embed(self, chunk: Chunk, suffix: Tensor) -> Tensor:
        positions = self._anatomy.positions.index_select(0, chunk.position)
        return suffix.index_select(0, chunk.source) + positions

    def _features(self, x: Tensor) -> Tensor:
        return self._anatomy.project(self._anatomy.ln_final(x))


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
        self, x: Tensor, shared: int, mask: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The block's output, and the prefix's keys and values ``[B, P, 2D]``.

        Args:
            x: the first ``shared`` rows are the prefix; without any, ``memory`` stands for it.
        """
        attention = self._block.attn
        qkv = F.linear(self._block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        if memory is not None:
            query, own = qkv.split([x.shape[-1], 2 * x.shape[-1]], dim=-1)
            mixed = self._mix(query, own, memory, mask)
        else:
            prefix, rows = qkv.split([shared, qkv.shape[1] - shared], dim=1)
            query, own = rows.split([x.shape[-1], 2 * x.shape[-1]], dim=-1)
            first, memory = prefix.split([x.shape[-1], 2 * x.shape[-1]], dim=-1)
            parts = [self._mix_prefix(first, memory), self._mix(query, own, memory, mask)]
            mixed = torch.cat(parts, dim=1)
        return self._finish(x, mixed), memory

    def last(
        self, x: Tensor, shared: int, mask: Tensor, rows: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """As above for the packed rows ``rows`` alone, ``[B, n, D]``: nothing else is pooled."""
        attention = self._block.attn
        qkv = F.linear(self._block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
        width = x.shape[-1]
        if memory is None:
            memory = qkv[:, :shared, width:]
            qkv, x = qkv[:, shared:], x[:, shared:]
        query, own = qkv.split([width, 2 * width], dim=-1)
        mixed = self._mix(query, own, memory, mask).index_select(1, rows)
        return self._finish(x.index_select(1, rows), mixed), memory

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
        images, shared, _ = memory.shape
        size = mask.shape[2]
        groups = len(mask) // images
        query = query.reshape(images * groups, size, self._heads, -1).transpose(1, 2)
        before = memory[:, None].expand(-1, groups, -1, -1).unflatten(-1, (2, self._heads, -1))
        own = own.unflatten(1, (groups, size)).unflatten(-1, (2, self._heads, -1))
        both = torch.cat([before, own], dim=2).flatten(0, 1)
        key, value = both.transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).reshape(images, groups * size, -1)

    def bytes(self, images: int, shared: int, chunk: Chunk) -> int:
        """Bytes that the backward pass needs of one block, from the sizes of what is saved."""
        width = self._block.attn.embed_dim
        hidden = self._block.mlp.c_fc.out_features
        rows = images * (shared + chunk.rows)
        keys = images * chunk.groups * chunk.mask.shape[-1]
        # Inputs of both norms, queries (with own keys and values), what was attended to,
        # the hidden rows; then the keys and values with the prefix's own copied in.
        values = rows * (6 * width + hidden) + keys * 2 * width
        return values * chunk.mask.element_size()
