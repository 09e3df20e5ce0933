"""The structure of an image tower, read from its modules and never from its name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone.parts.blocks import (
    PROJECTIONS,
    StandardBlock,
    Updates,
    apply_to_projections,
    apply_update,
    attend,
    is_standard,
)
from compatbench.errors import NotTransferable

# Up to this many tokens, products of small matrices are faster on a CPU than the fused call.
FEW_TOKENS = 64


class ClipBlock(StandardBlock):
    """A block of CLIP's image tower."""

    def __call__(self, x: Tensor, updates: Updates, rows: int) -> Tensor:
        """The first ``rows`` rows of the block's output, ``[batch, rows, width]``."""
        normed = self.block.ln_1(x)
        qkv = self.project(normed)
        if updates:
            qkv = apply_to_projections(updates, qkv, normed)
        else:
            normed = x  # which no update sees, so that its memory is free
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = q[:, :, :rows]
        if qkv.device.type == "cpu" and qkv.shape[1] <= FEW_TOKENS:
            mixed = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), None).view(q.shape)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.finish(x[:, :rows], _merge(mixed), updates, normed[:, :rows])


class TimmBlock:
    """A block of timm's, its norms before or after its parts; called as ``ClipBlock``."""

    def __init__(self, block: Any, rope: Callable[[], Tensor] | None) -> None:
        # The rope gives the sines and cosines of the patches, ``[..., patches, 2 · head width]``.
        self._block, self._rope = block, rope
        self._post_norm = type(block).__name__ == "EvaBlockPostNorm"

    def __call__(self, x: Tensor, updates: Updates, rows: int) -> Tensor:
        block = self._block
        entered = x if self._post_norm else block.norm1(x)
        mixed = self._attend(entered, updates, rows)
        entered = entered[:, :rows]
        mixed = apply_update(updates, "attn", mixed, entered)
        x = x[:, :rows] + self._scale(mixed, 1)
        normed = x if self._post_norm else block.norm2(x)
        x = x + self._scale(apply_update(updates, "mlp", block.mlp(normed), normed), 2)
        return apply_update(updates, "block", x, entered)

    def _scale(self, output: Tensor, part: int) -> Tensor:
        """What a part adds to its block's input: its output, normalised or scaled."""
        if self._post_norm:
            return getattr(self._block, f"norm{part}")(output)
        if hasattr(self._block, f"ls{part}"):
            return getattr(self._block, f"ls{part}")(output)
        gamma = getattr(self._block, f"gamma_{part}")
        return output if gamma is None else gamma * output

    def _attend(self, x: Tensor, updates: Updates, rows: int) -> Tensor:
        attention = self._block.attn
        parts = [
            apply_update(updates, part, y, x)
            for part, y in zip(PROJECTIONS, self._project(x), strict=True)
        ]
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
        if bias is None and getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        return F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)

    def _rotate(self, y: Tensor, rope: Tensor) -> Tensor:
        """Rotates the patches only: tokens before or after them have no place in the grid."""
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat

        attention = self._block.attn
        start, patches = attention.num_prefix_tokens, rope.shape[-2]
        before, placed, behind = y.tensor_split([start, start + patches], dim=2)
        return torch.cat([before, apply_rot_embed_cat(placed, rope), behind], dim=2)


def _merge(y: Tensor) -> Tensor:
    """``[batch, heads, tokens, head width]`` to ``[batch, tokens, width]``."""
    return y.transpose(1, 2).flatten(2)


class ClipAnatomy:
    """open_clip's ``VisionTransformer``, and SigLIP's of transformers."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        # Without the norm before the first block.
        self._embedding = copy.copy(visual)
        vars(self._embedding)["_modules"] = visual._modules | {"ln_pre": nn.Identity()}
        # Tokens of an image, class token and registers first, and their width d.
        self.tokens, self.width = visual.positional_embedding.shape
        self.extra = int(visual.class_embedding is not None)  # tokens before the patches
        self.blocks = [ClipBlock(block) for block in visual.transformer.resblocks]
        self.attends = visual.attn_pool is not None  # it pools by attention
        self.gated = False  # its MLPs have gates
        # The feature depends on the last block's first row alone.
        self.class_pooled = visual.pool_type == "tok" and not self.attends

    def embed(self, images: Tensor) -> Tensor:
        """Tokens before the first norm, ``[batch, tokens, d]`` of ``[batch, 3, H, W]``."""
        return self._embedding._embeds(images)

    def enter(self, tokens: Tensor) -> Tensor:
        """Applies the norm before the first block, if there is one."""
        return self._visual.ln_pre(tokens)

    def pool(self, x: Tensor) -> Tensor:
        """From the output of the last block to what is projected, ``[batch, d]``."""
        return self._visual._pool(x)[0]

    def norm(self, rows: Tensor) -> Tensor:
        """Treats every row like the pooled one."""
        return self._visual.ln_post(rows)

    def project(self, rows: Tensor) -> Tensor:
        """From the tower's width to the joint space, ``[..., e]``."""
        return rows if self._visual.proj is None else rows @ self._visual.proj


class TimmAnatomy:
    """timm's ``Eva`` and ViT in open_clip's ``TimmModel``; as ``ClipAnatomy``.

    The former is the tower of EVA-CLIP and PE-Core, the latter that of SigLIP and MobileCLIP-B.
    """

    def __init__(self, visual: Any) -> None:
        self._head, self._trunk = visual.head, visual.trunk
        trunk = visual.trunk
        self.width = trunk.embed_dim
        self.extra = trunk.num_prefix_tokens
        self.tokens = self.extra + trunk.patch_embed.num_patches
        self.gated = hasattr(trunk, "rope")
        rope = trunk.rope if self.gated else None
        self.blocks = [TimmBlock(block, rope and rope.get_embed) for block in trunk.blocks]
        self.attends = trunk.attn_pool is not None
        self.class_pooled = trunk.global_pool == "token" and not self.attends

    def embed(self, images: Tensor) -> Tensor:
        x = self._trunk._pos_embed(self._trunk.patch_embed(images))
        return x[0] if isinstance(x, tuple) else x  # Eva's has the sines and cosines beside it

    def enter(self, tokens: Tensor) -> Tensor:
        return self._trunk.norm_pre(tokens)

    def pool(self, x: Tensor) -> Tensor:
        return self._trunk.forward_head(self._trunk.norm(x), pre_logits=True)

    def norm(self, rows: Tensor) -> Tensor:
        return self._trunk.fc_norm(self._trunk.norm(rows))

    def project(self, rows: Tensor) -> Tensor:
        return self._head(self._trunk.head(rows))


def examine_image_tower(visual: Any, name: str) -> ClipAnatomy | TimmAnatomy:
    """The anatomy of a model's image tower, if something can be inserted into its kind.

    Another, run as if it were one of these, would give plausible features that are wrong.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer
    from timm.models import eva, vision_transformer

    from compatbench.backbone.parts.from_transformers import SiglipVision

    clip = type(visual) in (VisionTransformer, SiglipVision)
    inner = type(getattr(visual, "trunk", visual))
    if clip:
        odd = _odd_clip_part(visual)
    elif type(visual) is TimmModel and inner in (eva.Eva, vision_transformer.VisionTransformer):
        odd = _odd_timm_part(visual.trunk)
    else:
        odd = f"'{inner.__name__}' is not a transformer of CLIP's, EVA's or SigLIP's kind"
    if odd:
        raise NotTransferable(f"nothing can be inserted into the image tower of '{name}': {odd}")
    return ClipAnatomy(visual) if clip else TimmAnatomy(visual)


def _odd_clip_part(visual: Any) -> str | None:
    """What is not supported about CLIP's image tower, if anything."""
    if visual.pool_type not in ("tok", "avg"):
        return f"it is pooled by '{visual.pool_type}'"
    if not getattr(visual.transformer, "batch_first", True):  # open_clip 4 has no other
        return "its batch is not the first dimension"
    if not all(is_standard(block) for block in visual.transformer.resblocks):
        return "its blocks are not open_clip's standard ones"
    return None


def _odd_timm_part(trunk: Any) -> str | None:
    from timm.layers.attention import Attention, AttentionRope
    from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm
    from timm.models.vision_transformer import Block

    if trunk.global_pool not in ("token", "avg", "map"):
        return f"it is pooled by '{trunk.global_pool}'"
    if trunk.dynamic_img_size:
        return "its images have no fixed size"
    rope = getattr(trunk, "rope", None)
    if rope is not None and (trunk.rope_mixed or not hasattr(rope, "feat_shape")):
        return "its rotary positions are not EVA-CLIP's"
    for block in trunk.blocks:
        if type(block) not in (EvaBlock, EvaBlockPostNorm, Block):
            return "its blocks are not EVA's or timm's standard ones"
        attention = block.attn
        if (
            type(attention) not in (EvaAttention, AttentionRope, Attention)
            or getattr(attention, "rotate_half", False)
            or getattr(attention, "gate", None) is not None
            or getattr(attention, "num_kv_groups", 1) != 1
        ):
            return "its attention is not EVA-CLIP's or timm's standard one"
    return None
