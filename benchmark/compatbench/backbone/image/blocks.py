"""Blocks of an image tower, run over its own tokens and those of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone.text.attention import attend, plan_images
from compatbench.backbone.text.standard_block import StandardBlock, is_standard

FEW_TOKENS = 64
"""Up to this many tokens, products of small matrices are faster on a CPU than the fused
attention call."""

Added = Mapping[str, Callable[[Tensor], Tensor]]
"""For ``q``, ``k`` or ``v``: a function of the projection's input ``[batch, tokens, width]``
whose value, of the same shape, is added to the projection's output."""


class ClipBlock(StandardBlock):
    """A block of CLIP's image tower."""

    def __call__(self, x: Tensor, added: Added, rows: int) -> Tensor:
        """The first ``rows`` rows of the block's output, ``[batch, rows, width]``."""
        normed = self.block.ln_1(x)
        qkv = self.project(normed)
        if added:
            qkv = torch.cat(_add(qkv.chunk(3, dim=-1), added, normed), dim=-1)
        return self.finish(x[:, :rows], self._attend(qkv, rows))

    def _attend(self, qkv: Tensor, rows: int) -> Tensor:
        batch, tokens, _ = qkv.shape
        if qkv.device.type == "cpu" and tokens <= FEW_TOKENS:
            return attend(qkv, plan_images(batch, tokens, rows, self.heads, qkv.device))
        q, k, v = (_split(y, self.heads) for y in qkv.chunk(3, dim=-1))
        return _merge(F.scaled_dot_product_attention(q[:, :, :rows], k, v))


class EvaBlock:
    """A block of timm's ``Eva``, its norms before or after its parts.

    Args:
        block: the block.
        rope: gives the sines and cosines of the patches, ``[..., patches, 2 · head width]``,
            or None for a tower without rotary positions.
    """

    def __init__(self, block: Any, rope: Callable[[], Tensor] | None) -> None:
        from timm.models.eva import EvaBlockPostNorm

        self._block = block
        self._rope = rope
        self._post_norm = type(block) is EvaBlockPostNorm

    def __call__(self, x: Tensor, added: Added, rows: int) -> Tensor:
        """The first ``rows`` rows of the block's output, ``[batch, rows, width]``."""
        block = self._block
        if self._post_norm:
            x = x[:, :rows] + block.norm1(self._attend(x, added, rows))
            return x + block.norm2(block.mlp(x))
        mixed = self._attend(block.norm1(x), added, rows)
        x = x[:, :rows] + _scale(mixed, block.gamma_1)
        return x + _scale(block.mlp(block.norm2(x)), block.gamma_2)

    def _attend(self, x: Tensor, added: Added, rows: int) -> Tensor:
        attention = self._block.attn
        q, k, v = (_split(y, attention.num_heads) for y in _add(self._project(x), added, x))
        q, k = attention.q_norm(q), attention.k_norm(k)
        if self._rope is not None:
            rope = self._rope()
            q, k = self._rotate(q, rope).type_as(v), self._rotate(k, rope).type_as(v)
        mixed = _merge(F.scaled_dot_product_attention(q[:, :, :rows], k, v))
        return attention.proj(attention.norm(mixed))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        attention = self._block.attn
        if attention.qkv is None:
            return attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        bias = attention.qkv.bias
        if bias is None and attention.q_bias is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        return F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)

    def _rotate(self, y: Tensor, rope: Tensor) -> Tensor:
        """Rotates the patches only: tokens before or after them have no place in the grid."""
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat

        attention = self._block.attn
        start, patches = attention.num_prefix_tokens, rope.shape[-2]
        rest = y.shape[2] - start - patches
        before, own, behind = y.split([start, patches, rest], dim=2)
        half = {"half": True} if getattr(attention, "rotate_half", False) else {}
        return torch.cat([before, apply_rot_embed_cat(own, rope, **half), behind], dim=2)


def odd_clip_block(block: nn.Module) -> str | None:
    """What is not supported about a block of open_clip, if anything."""
    return None if is_standard(block) else "its blocks are not open_clip's standard ones"


def odd_eva_block(block: Any) -> str | None:
    """What is not supported about a block of timm's ``Eva``, if anything."""
    from timm.layers.attention import AttentionRope
    from timm.models import eva

    if type(block) not in (eva.EvaBlock, eva.EvaBlockPostNorm):
        return "its blocks are not timm's EVA blocks"
    attention = block.attn
    if type(attention) not in (eva.EvaAttention, AttentionRope):
        return "its attention is not timm's EVA attention"
    if getattr(attention, "gate", None) is not None:
        return "its attention is gated"
    if getattr(attention, "num_kv_groups", 1) != 1:
        return "its queries share keys and values"
    return None


def _add(projected: tuple[Tensor, ...], added: Added, x: Tensor) -> list[Tensor]:
    names = ("q", "k", "v")
    return [
        y + added[name](x) if name in added else y for name, y in zip(names, projected, strict=True)
    ]


def _scale(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else factor * x


def _split(y: Tensor, heads: int) -> Tensor:
    """``[batch, tokens, width]`` to ``[batch, heads, tokens, head width]``."""
    return y.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge(y: Tensor) -> Tensor:
    """``[batch, heads, tokens, head width]`` to ``[batch, tokens, width]``."""
    return y.transpose(1, 2).flatten(2)
