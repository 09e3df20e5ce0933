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
        """Return the first ``rows`` rows of the block's output, ``[batch, rows, width]``."""
        normed = self.block.ln_1(x)
        qkv = self.project(normed)
        if updates:
            qkv = apply_to_projections(updates, qkv, normed)
        else:
            normed = x  # no update reads it, so the memory of the normed rows is freed
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = q[:, :, :rows]
        if qkv.device.type == "cpu" and qkv.shape[1] <= FEW_TOKENS:
            mixed = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), None).view(q.shape)
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return self.finish(x[:, :rows], _merge(mixed), updates, normed[:, :rows])


class TimmBlock:
    """A block of timm's, with norms before or after its parts; called like ``ClipBlock``."""

    def __init__(self, block: Any, rope: Callable[[], Tensor] | None) -> None:
        self._block = block
        self.heads: int = block.attn.num_heads
        # Returns the sines and cosines of the patches, ``[..., patches, 2 * head width]``.
        self._rope = rope
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
        """Return a part's output, normalised or scaled, as it is added to the block's input."""
        if self._post_norm:
            norm = getattr(self._block, f"norm{part}")
            return norm(output)
        if hasattr(self._block, f"ls{part}"):
            layer_scale = getattr(self._block, f"ls{part}")
            return layer_scale(output)
        gamma = getattr(self._block, f"gamma_{part}")
        if gamma is None:
            return output
        return gamma * output

    def _attend(self, x: Tensor, updates: Updates, rows: int) -> Tensor:
        """Return the first ``rows`` rows of the attention's output, ``[batch, rows, width]``."""
        attention = self._block.attn
        heads = []
        for part, y in zip(PROJECTIONS, self._project(x), strict=True):
            changed = apply_update(updates, part, y, x)
            heads.append(changed.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2))
        q, k, v = heads
        q = attention.q_norm(q)
        k = attention.k_norm(k)
        if self._rope is not None:
            rope = self._rope()
            q = self._rotate(q, rope).type_as(v)
            k = self._rotate(k, rope).type_as(v)
        mixed = _merge(F.scaled_dot_product_attention(q[:, :, :rows], k, v))
        return attention.proj(attention.norm(mixed))

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each ``[batch, tokens, width]``."""
        attention = self._block.attn
        if attention.qkv is None:
            return attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
        bias = attention.qkv.bias
        if bias is None and getattr(attention, "q_bias", None) is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        return F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)

    def _rotate(self, y: Tensor, rope: Tensor) -> Tensor:
        """Rotate only the patches: tokens before or after them have no place in the grid."""
        from timm.layers.pos_embed_sincos import apply_rot_embed_cat

        start = self._block.attn.num_prefix_tokens
        end = start + rope.shape[-2]
        before, patches, behind = y.tensor_split([start, end], dim=2)
        return torch.cat([before, apply_rot_embed_cat(patches, rope), behind], dim=2)


def _merge(y: Tensor) -> Tensor:
    """Reshape ``[batch, heads, tokens, head width]`` to ``[batch, tokens, width]``."""
    return y.transpose(1, 2).flatten(2)


class ClipAnatomy:
    """The parts of open_clip's ``VisionTransformer``, and of SigLIP's tower of transformers."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        # A copy of the tower without the norm before the first block.
        self._embedding = copy.copy(visual)
        vars(self._embedding)["_modules"] = visual._modules | {"ln_pre": nn.Identity()}
        # Tokens of an image, class token and registers first, and their width d.
        self.tokens, self.width = visual.positional_embedding.shape
        self.extra = int(visual.class_embedding is not None)  # tokens before the patches
        self.blocks = [ClipBlock(block) for block in visual.transformer.resblocks]
        self.attends = visual.attn_pool is not None  # it pools by attention
        self.gated = False  # no MLP has a gate
        # If True, the feature depends only on the last block's first row.
        self.class_pooled = visual.pool_type == "tok" and not self.attends

    def embed(self, images: Tensor) -> Tensor:
        """Return tokens before the first norm, ``[batch, tokens, d]`` of ``[batch, 3, H, W]``."""
        return self._embedding._embeds(images)

    def enter(self, tokens: Tensor) -> Tensor:
        """Apply the norm before the first block, if there is one."""
        return self._visual.ln_pre(tokens)

    def pool(self, x: Tensor) -> Tensor:
        """Return the pooled row of the last block's output, before projection, ``[batch, d]``."""
        return self._visual._pool(x)[0]

    def norm(self, rows: Tensor) -> Tensor:
        """Apply the last norm to every row, as to the pooled one."""
        return self._visual.ln_post(rows)

    def project(self, rows: Tensor) -> Tensor:
        """Return rows of the tower's width, projected to the embedding space, ``[..., e]``."""
        if self._visual.proj is None:
            return rows
        return rows @ self._visual.proj


class TimmAnatomy:
    """The parts of timm's ``Eva`` and ViT in open_clip's ``TimmModel``, like ``ClipAnatomy``.

    ``Eva`` is the tower of EVA-CLIP and PE-Core, the ViT that of SigLIP and MobileCLIP-B.
    """

    def __init__(self, visual: Any) -> None:
        trunk = visual.trunk
        self._head = visual.head
        self._trunk = trunk
        self.width = trunk.embed_dim
        self.extra = trunk.num_prefix_tokens
        self.tokens = self.extra + trunk.patch_embed.num_patches
        self.gated = hasattr(trunk, "rope")
        rope = getattr(trunk, "rope", None)
        get_embed = None if rope is None else rope.get_embed
        self.blocks = [TimmBlock(block, get_embed) for block in trunk.blocks]
        self.attends = trunk.attn_pool is not None
        self.class_pooled = trunk.global_pool == "token" and not self.attends

    def embed(self, images: Tensor) -> Tensor:
        x = self._trunk._pos_embed(self._trunk.patch_embed(images))
        if isinstance(x, tuple):  # Eva returns sines and cosines beside the tokens
            return x[0]
        return x

    def enter(self, tokens: Tensor) -> Tensor:
        return self._trunk.norm_pre(tokens)

    def pool(self, x: Tensor) -> Tensor:
        return self._trunk.forward_head(self._trunk.norm(x), pre_logits=True)

    def norm(self, rows: Tensor) -> Tensor:
        return self._trunk.fc_norm(self._trunk.norm(rows))

    def project(self, rows: Tensor) -> Tensor:
        return self._head(self._trunk.head(rows))


def examine_image_tower(visual: Any, name: str) -> ClipAnatomy | TimmAnatomy:
    """Return the anatomy of a model's image tower.

    Raises:
        NotTransferable: nothing can be inserted into a tower of this kind. Run as if it were of
            a known kind, it would give plausible features that are wrong.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer
    from timm.models import eva, vision_transformer

    from compatbench.backbone.parts.from_transformers import SiglipVision

    is_clip = type(visual) in (VisionTransformer, SiglipVision)
    inner = type(getattr(visual, "trunk", visual))
    if is_clip:
        problem = _find_clip_problem(visual)
    elif type(visual) is TimmModel and inner in (eva.Eva, vision_transformer.VisionTransformer):
        problem = _find_timm_problem(visual.trunk)
    else:
        problem = f"'{inner.__name__}' is not a transformer of CLIP's, EVA's or SigLIP's kind"
    if problem:
        raise NotTransferable(
            f"nothing can be inserted into the image tower of '{name}': {problem}"
        )
    return ClipAnatomy(visual) if is_clip else TimmAnatomy(visual)


def _find_clip_problem(visual: Any) -> str | None:
    """Return the first property of CLIP's image tower that is not supported; None if all are."""
    if visual.pool_type not in ("tok", "avg"):
        return f"it is pooled by '{visual.pool_type}'"
    if not getattr(visual.transformer, "batch_first", True):  # open_clip 4 has no other
        return "its batch is not the first dimension"
    if not all(is_standard(block) for block in visual.transformer.resblocks):
        return "its blocks are not open_clip's standard ones"
    return None


def _find_timm_problem(trunk: Any) -> str | None:
    """Return the first property of timm's trunk that is not supported; None if all are."""
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
