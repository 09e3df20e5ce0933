"""The text tower, run from token embeddings, exactly and without waste.

A causal tower that pools at the end-of-text token never looks past it, and what
comes before a class's own tokens is the same for every class. So padding is
never computed, the shared prefix runs once, each class's suffix attends to the
prefix's keys and values, and in the last block only the end-of-text rows are
needed. The features and their gradients equal open_clip's own up to rounding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone.prompts import PackedLayout, Prompts, packed_layout
from compatbench.errors import CompatbenchError


class TextTower:
    """A causal text tower of an open_clip model (``CLIP`` or ``CustomTextCLIP``).

    Raises:
        CompatbenchError: the tower is not causal, does not pool at the end-of-text token, or
            has blocks of another kind.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        text = getattr(model, "text", None)
        tower = text if isinstance(text, nn.Module) else model
        self._check_supported(tower, name)
        self.token_embedding: nn.Embedding = tower.token_embedding  # type: ignore[assignment]
        self.positions: Tensor = tower.positional_embedding  # type: ignore[assignment]
        self.blocks: list[nn.Module] = list(tower.transformer.resblocks)  # type: ignore[union-attr, arg-type]
        self.ln_final: nn.Module = tower.ln_final  # type: ignore[assignment]
        self.projection: nn.Module | Tensor | None = tower.text_projection  # type: ignore[assignment]
        self.context_length: int = self.positions.shape[0]
        self.width: int = self.positions.shape[1]

    @staticmethod
    def _check_supported(tower: nn.Module, name: str) -> None:
        pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", None))
        mask = getattr(tower, "attn_mask", None)
        # The mask is looked at, not believed: a tower run without its mask gives
        # plausible features that are silently wrong.
        causal = isinstance(mask, Tensor) and bool(
            torch.isneginf(mask).eq(torch.ones_like(mask).triu(1).bool()).all()
        )
        # open_clip's custom blocks (norms inside the attention) have the same names
        # for their weights, and would pass for plain ones.
        blocks = getattr(getattr(tower, "transformer", None), "resblocks", None) or [None]
        plain = all(isinstance(getattr(b, "attn", None), nn.MultiheadAttention) for b in blocks)
        class_token = getattr(tower, "cls_emb", None) is not None
        if pool != "argmax" or not causal or not plain or class_token:
            raise CompatbenchError(
                f"backbone '{name}': its text tower is not a causal tower of plain blocks "
                "pooled at the end-of-text token, the only kind supported so far"
            )

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings without positions, ``[..., D]`` for ids ``[...]``."""
        return self.token_embedding(ids)

    def encode(self, prompts: Prompts) -> Tensor:
        """Features of prompts at their end-of-text tokens, not normalised, ``[n, e]``.

        Differentiable in ``prompts.prefix`` and ``prompts.suffix``.

        Raises:
            CompatbenchError: a prompt is longer than the tower's context.
        """
        if prompts.longest > self.context_length:
            raise CompatbenchError(
                f"a prompt of {prompts.longest} tokens does not fit the text tower's "
                f"{self.context_length}; use fewer context tokens or a shorter class name"
            )
        layout = packed_layout(prompts.lengths, prompts.suffix.device)
        shared = prompts.prefix.shape[0]
        prefix = prompts.prefix + self.positions[:shared]
        rows = prompts.suffix[layout.prompt, layout.column]
        rows = rows + self.positions[shared + layout.column]
        for block in self.blocks[:-1]:
            prefix, rows = self._block(block, prefix, rows, layout)
        _, rows = self._block(self.blocks[-1], prefix, rows, layout, last=True)
        features = self._project(self.ln_final(rows))
        return features[layout.restore]

    def _block(
        self,
        block: nn.Module,
        prefix: Tensor,
        rows: Tensor,
        layout: PackedLayout,
        last: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One pre-norm block; after the last one only the end-of-text rows remain, ``[n, D]``."""
        attention: nn.MultiheadAttention = block.attn  # type: ignore[assignment]
        heads = attention.num_heads
        both = torch.cat([prefix, rows])
        qkv = F.linear(block.ln_1(both), attention.in_proj_weight, attention.in_proj_bias)  # type: ignore[operator]
        (q0, k0, v0), (q, k, v) = (
            part.chunk(3, dim=-1) for part in qkv.split([len(prefix), len(rows)])
        )
        mixed = _suffix_attention(q, k, v, k0, v0, layout, heads, last)
        if last:
            return prefix, self._residual(block, rows[layout.last], mixed)
        mixed = torch.cat([_prefix_attention(q0, k0, v0, heads), mixed])
        both = self._residual(block, both, mixed)
        return both[: len(prefix)], both[len(prefix) :]

    @staticmethod
    def _residual(block: nn.Module, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + block.ls_1(block.attn.out_proj(mixed))  # type: ignore[operator, union-attr]
        return x + block.ls_2(block.mlp(block.ln_2(x)))  # type: ignore[operator]

    def _project(self, rows: Tensor) -> Tensor:
        if self.projection is None:
            return rows
        if isinstance(self.projection, nn.Module):
            return self.projection(rows)
        return rows @ self.projection


def _prefix_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Causal self-attention of the shared prefix, ``[P, D]``."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1)[None] for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed[0].transpose(0, 1).flatten(-2)


def _suffix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    layout: PackedLayout,
    heads: int,
    last: bool,
) -> Tensor:
    """Each suffix row attends to the whole prefix and to its own past, bucket by bucket.

    Returns:
        ``[R, D]`` for all packed rows, or ``[n, D]`` for the end-of-text rows if ``last``.
    """
    shared = prefix_k.shape[0]
    mixed = []
    for bucket in layout.buckets:
        part = slice(bucket.start, bucket.stop)
        grid = (bucket.count, bucket.length, heads, -1)
        query = q[part].reshape(grid).transpose(1, 2)
        if last:
            query = query[:, :, -1:]
        key, value = (
            torch.cat(
                [
                    prefix.reshape(1, shared, heads, -1).expand(bucket.count, -1, -1, -1),
                    own[part].reshape(grid),
                ],
                dim=1,
            ).transpose(1, 2)
            for prefix, own in ((prefix_k, k), (prefix_v, v))
        )
        mask = None if last else _suffix_mask(bucket.length, shared, q.device)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed.append(out.transpose(1, 2).flatten(2).flatten(0, 1))
    return torch.cat(mixed)


def _suffix_mask(length: int, shared: int, device: torch.device) -> Tensor | None:
    """True where a suffix row may look, ``[length, shared + length]``; None if everywhere."""
    if length == 1:
        return None
    allowed = torch.ones(length, shared + length, dtype=torch.bool, device=device)
    return allowed.tril(shared)
