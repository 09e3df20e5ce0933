"""Any other text tower, run whole: every row of its context, through its own blocks.

Towers without a causal mask attend to the padding (MobileCLIP-S), or are pooled at the
last row (SigLIP, CLIPA), or at a class token behind the padding (CoCa). What they
compute for a prompt is what open_clip computes for it, padding included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.backbone.text.anatomy import Anatomy
from compatbench.backbone.text.causal import chunk_rows
from compatbench.backbone.text.memory import SelectiveCheckpoint
from compatbench.backbone.text.prompts import Prompts, Swap, replace_rows


class PlainTower:
    """Runs padded prompts; rows after the end of text are left out only if no row sees them.

    Args:
        learned: whether gradients of the tower's own weights will be needed.
    """

    def __init__(self, anatomy: Anatomy, learned: bool = False) -> None:
        self._anatomy = anatomy
        self._learned = learned

    def encode(self, prompts: Prompts) -> Tensor:
        """Features of prompts, ``[n, e]``, or ``[B, n, e]`` for B prefixes."""
        anatomy = self._anatomy
        length = prompts.longest if anatomy.padding_unseen else anatomy.context_length
        prefix = prompts.prefix if prompts.prefix.ndim == 3 else prompts.prefix[None]
        suffix, device = prompts.suffix, prompts.suffix.device
        lengths = torch.tensor(prompts.lengths, device=device)
        step = max(1, chunk_rows(anatomy) // length)
        swap = prompts.swap
        pieces = [
            (
                image[None],
                suffix[i : i + step],
                lengths[i : i + step],
                swap and Swap(swap.block, swap.rows[i : i + step]),
            )
            for image in prefix
            for i in range(0, len(suffix), step)
        ]
        sizes = [self._bytes(len(piece[2]), length) for piece in pieces]
        learned = self._learned or prompts.need_gradients
        checkpoint = SelectiveCheckpoint(sizes, device, learned)
        features = torch.cat(
            [checkpoint.run(self._run, length, *piece, *prompts.deep) for piece in pieces]
        )
        if prompts.prefix.ndim == 3:
            return features.unflatten(0, (len(prefix), -1))
        return features

    def _run(
        self,
        length: int,
        prefix: Tensor,
        suffix: Tensor,
        lengths: Tensor,
        swap: Swap | None,
        *deep: Tensor,
    ) -> Tensor:
        """Features of a few classes with one prefix ``[1, P, D]``, ``[n, e]``."""
        anatomy = self._anatomy
        x = self._pad(length, prefix, suffix, lengths)
        hidden = None
        if anatomy.pads_by_place:
            hidden = torch.arange(length, device=x.device) >= prefix.shape[1] + lengths[:, None]
        elif anatomy.pad_mask or anatomy.class_token is not None:
            hidden = self._padding(x)
        if anatomy.class_token is not None:
            x = torch.cat([x, anatomy.class_token.expand(len(x), 1, -1)], dim=1)
        x = x + anatomy.positions[: x.shape[1]]
        mask = self._mask(x.shape[1], hidden)
        for i, block in enumerate(anatomy.blocks):
            if 0 < i <= len(deep):
                x = replace_rows(x, deep[i - 1])
            if swap is not None and i == swap.block:
                x = replace_rows(x, swap.rows, prefix.shape[1])
            x = block(x, attn_mask=mask)
        rows = x[torch.arange(len(x), device=x.device), self._pooled_rows(x, prefix, lengths)]
        return anatomy.project(anatomy.ln_final(rows))

    def _pad(self, length: int, prefix: Tensor, suffix: Tensor, lengths: Tensor) -> Tensor:
        """Prompts padded with the embedding of the padding token, ``[n, length, D]``."""
        padding = self._anatomy.token_embedding.weight[self._anatomy.pad]
        shared, count = prefix.shape[1], len(suffix)
        suffix = suffix[:, : length - shared]
        inside = torch.arange(suffix.shape[1], device=suffix.device) < lengths[:, None]
        suffix = torch.where(inside[..., None], suffix, padding)
        rest = padding.expand(count, length - shared - suffix.shape[1], -1)
        return torch.cat([prefix.expand(count, -1, -1), suffix, rest], dim=1)

    def _padding(self, x: Tensor) -> Tensor:
        """Rows that open_clip takes for padding, ``[n, L]``: all that look like it.

        It compares token ids, and a text may hold the id of the padding.
        """
        return (x == self._anatomy.token_embedding.weight[self._anatomy.pad]).all(-1)

    def _mask(self, length: int, hidden: Tensor | None) -> Tensor | None:
        """What is added to the scores, ``[length, length]`` or one for every head of every text."""
        anatomy = self._anatomy
        mask = None if anatomy.mask is None else anatomy.mask[:length, :length]
        if hidden is None:
            return mask
        if anatomy.class_token is not None:
            shown = hidden.new_zeros(len(hidden), 1)
            parts = [shown, hidden] if anatomy.shifted_class_mask else [hidden, shown]
            hidden = torch.cat(parts, dim=1)
        padding = torch.zeros(hidden.shape, dtype=anatomy.positions.dtype, device=hidden.device)
        padding = padding.masked_fill(hidden, -torch.inf)[:, None].expand(-1, length, -1)
        heads: int = anatomy.blocks[0].attn.num_heads  # type: ignore[assignment, union-attr]
        padding = padding.repeat_interleave(heads, dim=0)
        return padding if mask is None else mask + padding

    def _pooled_rows(self, x: Tensor, prefix: Tensor, lengths: Tensor) -> Tensor:
        if self._anatomy.class_token is None and self._anatomy.pool != "last":
            return prefix.shape[1] + lengths - 1 if self._anatomy.pool != "first" else 0 * lengths
        return torch.full_like(lengths, x.shape[1] - 1)

    def _bytes(self, count: int, length: int) -> int:
        """Bytes that the backward pass needs; no more than an estimate for custom blocks."""
        positions = self._anatomy.positions
        values = count * (length + 1) * positions.shape[1] * (10 + 4) * len(self._anatomy.blocks)
        return values * positions.element_size()
