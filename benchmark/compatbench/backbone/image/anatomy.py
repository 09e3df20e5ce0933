"""The structure of an image tower, read from its modules and never from its name.

Its blocks are run over its own tokens and those of a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone.text.standard_block import StandardBlock, attend, is_standard
from compatbench.errors import NotTransferable

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
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = q[:, :, :rows]
        if qkv.device.type == "cpu" and qkv.shape[1] <= FEW_TOKENS:
            mixed = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), None).view(q.shape)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.finish(x[:, :rows], _merge(mixed))


class EvaBlock:
    """A block of timm's ``Eva``, its norms before or after its parts.

    Args:
        rope: gives the sines and cosines of the patches, ``[..., patches, 2 · head width]``;
            None for a tower without rotary positions.
    """

    def __init__(self, block: Any, rope: Callable[[], Tensor] | None) -> None:
        self._block, self._rope = block, rope
        self._post_norm = type(block).__name__ == "EvaBlockPostNorm"

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
        parts = _add(self._project(x), added, x)
        q, k, v = (y.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for y in parts)
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
        before, own, behind = y.tensor_split([start, start + patches], dim=2)
        return torch.cat([before, apply_rot_embed_cat(own, rope), behind], dim=2)


def _add(projected: tuple[Tensor, ...], added: Added, x: Tensor) -> list[Tensor]:
    return [
        y + added[name](x) if name in added else y for name, y in zip("qkv", projected, strict=True)
    ]


def _scale(x: Tensor, factor: Tensor | None) -> Tensor:
    return x if factor is None else factor * x


def _merge(y: Tensor) -> Tensor:
    """``[batch, heads, tokens, head width]`` to ``[batch, tokens, width]``."""
    return y.transpose(1, 2).flatten(2)


class ClipAnatomy:
    """open_clip's ``VisionTransformer``.

    Attributes:
        width: width d of its tokens.
        tokens: tokens of an image, class token and registers first.
        extra: tokens before the patches.
        blocks: each from tokens, what is added inside, and the rows wanted, to those rows.
        class_pooled: the feature depends on the last block's first row alone.
    """

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        self.tokens, self.width = visual.positional_embedding.shape
        self.extra = 1
        self.blocks = [ClipBlock(block) for block in visual.transformer.resblocks]
        self.class_pooled = visual.pool_type == "tok" and visual.attn_pool is None

    def embed(self, images: Tensor) -> Tensor:
        """The input of the first block, ``[batch, tokens, d]`` of ``[batch, 3, H, W]``."""
        return self._visual._embeds(images)

    def enter(self, tokens: Tensor) -> Tensor:
        """Applies the norm before the first block, if there is one."""
        return self._visual.ln_pre(tokens)

    def finish(self, x: Tensor) -> Tensor:
        """From the output of the last block to image features, ``[batch, e]``."""
        pooled, _ = self._visual._pool(x)
        return self._to_joint_space(pooled)

    def project(self, patches: Tensor) -> Tensor:
        """Treats every row like the pooled one, ``[batch, patches, e]``."""
        _check_pooling(self._visual)
        return self._to_joint_space(self._visual.ln_post(patches))

    def _to_joint_space(self, rows: Tensor) -> Tensor:
        return rows if self._visual.proj is None else rows @ self._visual.proj


class EvaAnatomy:
    """timm's ``Eva`` in open_clip's ``TimmModel``: EVA-CLIP and EVA02-CLIP. As ``ClipAnatomy``."""

    def __init__(self, visual: Any) -> None:
        self._head, self._trunk = visual.head, visual.trunk
        trunk = visual.trunk
        self.width = trunk.embed_dim
        self.extra = trunk.num_prefix_tokens
        self.tokens = self.extra + trunk.patch_embed.num_patches
        rope = None if trunk.rope is None else trunk.rope.get_embed
        self.blocks = [EvaBlock(block, rope) for block in trunk.blocks]
        self.class_pooled = trunk.global_pool == "token" and trunk.attn_pool is None

    def embed(self, images: Tensor) -> Tensor:
        x, _ = self._trunk._pos_embed(self._trunk.patch_embed(images))
        return self._trunk.norm_pre(x)

    def enter(self, tokens: Tensor) -> Tensor:
        return self._trunk.norm_pre(tokens)

    def finish(self, x: Tensor) -> Tensor:
        return self._head(self._trunk.forward_head(self._trunk.norm(x)))

    def project(self, patches: Tensor) -> Tensor:
        _check_pooling(self._trunk)
        rows = self._trunk.fc_norm(self._trunk.norm(patches))
        return self._head(self._trunk.head(rows))


def _check_pooling(tower: Any) -> None:
    if tower.attn_pool is not None:
        raise NotTransferable("the image tower pools by attention, so patches have no features")


def examine_image_tower(visual: Any, name: str) -> ClipAnatomy | EvaAnatomy:
    """The anatomy of a model's image tower.

    Raises:
        NotTransferable: nothing can be inserted into a tower of this kind. Run as if it were
            another, it would give plausible features that are silently wrong.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer
    from timm.models.eva import Eva

    if type(visual) is VisionTransformer:
        odd = _odd_clip_part(visual)
    elif type(visual) is TimmModel and type(visual.trunk) is Eva:
        odd = _odd_eva_part(visual.trunk)
    else:
        inner = type(getattr(visual, "trunk", visual)).__name__
        odd = f"'{inner}' is neither CLIP's nor EVA's transformer"
    if odd:
        raise NotTransferable(f"nothing can be inserted into the image tower of '{name}': {odd}")
    return ClipAnatomy(visual) if type(visual) is VisionTransformer else EvaAnatomy(visual)


def _odd_clip_part(visual: Any) -> str | None:
    """What is not supported about a tower, if anything."""
    if visual.pool_type not in ("tok", "avg"):
        return f"it is pooled by '{visual.pool_type}'"
    if not visual.transformer.batch_first:
        return "its batch is not the first dimension"
    if not all(is_standard(block) for block in visual.transformer.resblocks):
        return "its blocks are not open_clip's standard ones"
    return None


def _odd_eva_part(trunk: Any) -> str | None:
    from timm.layers.attention import AttentionRope
    from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm

    if trunk.global_pool not in ("token", "avg", "map"):
        return f"it is pooled by '{trunk.global_pool}'"
    if trunk.dynamic_img_size:
        return "its images have no fixed size"
    if trunk.rope is not None and (trunk.rope_mixed or not hasattr(trunk.rope, "feat_shape")):
        return "its rotary positions are not EVA-CLIP's"
    for block in trunk.blocks:
        if type(block) not in (EvaBlock, EvaBlockPostNorm):
            return "its blocks are not timm's EVA blocks"
        if type(block.attn) not in (EvaAttention, AttentionRope):
            return "its attention is not timm's EVA attention"
        if getattr(block.attn, "rotate_half", False):
            return "its rotary positions are not EVA-CLIP's"
        if getattr(block.attn, "gate", None) is not None:
            return "its attention is gated"
        if getattr(block.attn, "num_kv_groups", 1) != 1:
            return "its queries share keys and values"
    return None
