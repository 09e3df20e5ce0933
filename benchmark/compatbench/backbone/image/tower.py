"""The image tower of a model, run from any block on, with tokens and updates inserted.

Its structure is read from its modules, never from its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compatbench.backbone.text.anatomy import replace_parameters
from compatbench.backbone.text.standard_block import StandardBlock, attend, is_standard
from compatbench.errors import NotTransferable

# Up to this many tokens, products of small matrices are faster on a CPU than the fused call.
FEW_TOKENS = 64

Projection = Literal["q", "k", "v"]
Update = Callable[[Tensor], Tensor]
"""A function of a projection's input ``[batch, tokens, d]``, whose value, of the same shape, is
added to the projection's output."""

Updates = Mapping[tuple[int, Projection], Update]
"""An update for a block and one of its projections."""

Added = Mapping[str, Update]
"""An update for each of ``q``, ``k`` and ``v`` of one block that has one."""


@dataclass(frozen=True)
class ImageInput:
    """What a classifier takes of an image: how far the frozen tower has computed it.

    ``features``: the image features, ``[batch, e]``; ``hidden``: the tokens that enter a block,
    ``[batch, tokens, d]``, for methods that act in that block or in later ones; ``dense``: the
    image feature, and behind it each patch projected like it, ``[batch, 1 + patches, e]``.
    """

    kind: Literal["features", "hidden", "dense"] = "features"
    block: int = 0  # counted from 0, that hidden tokens enter


FEATURES = ImageInput("features")
DENSE = ImageInput("dense")


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
    """A block of timm's ``Eva``, its norms before or after its parts; called as ``ClipBlock``."""

    def __init__(self, block: Any, rope: Callable[[], Tensor] | None) -> None:
        # The rope gives the sines and cosines of the patches, ``[..., patches, 2 · head width]``.
        self._block, self._rope = block, rope
        self._post_norm = type(block).__name__ == "EvaBlockPostNorm"

    def __call__(self, x: Tensor, added: Added, rows: int) -> Tensor:
        block = self._block
        if self._post_norm:
            x = x[:, :rows] + block.norm1(self._attend(x, added, rows))
            return x + block.norm2(block.mlp(x))
        mixed = self._attend(block.norm1(x), added, rows)
        x = x[:, :rows] + (mixed if block.gamma_1 is None else block.gamma_1 * mixed)
        mixed = block.mlp(block.norm2(x))
        return x + (mixed if block.gamma_2 is None else block.gamma_2 * mixed)

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


def _merge(y: Tensor) -> Tensor:
    """``[batch, heads, tokens, head width]`` to ``[batch, tokens, width]``."""
    return y.transpose(1, 2).flatten(2)


class ClipAnatomy:
    """open_clip's ``VisionTransformer``."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        # Tokens of an image, class token and registers first, and their width d.
        self.tokens, self.width = visual.positional_embedding.shape
        self.extra = 1  # tokens before the patches
        self.blocks = [ClipBlock(block) for block in visual.transformer.resblocks]
        self.attends = visual.attn_pool is not None  # it pools by attention
        # The feature depends on the last block's first row alone.
        self.class_pooled = visual.pool_type == "tok" and not self.attends

    def embed(self, images: Tensor) -> Tensor:
        """The input of the first block, ``[batch, tokens, d]`` of ``[batch, 3, H, W]``."""
        return self._visual._embeds(images)

    def enter(self, tokens: Tensor) -> Tensor:
        """Applies the norm before the first block, if there is one."""
        return self._visual.ln_pre(tokens)

    def finish(self, x: Tensor) -> Tensor:
        """From the output of the last block to image features, ``[batch, e]``."""
        return self._to_joint_space(self._visual._pool(x)[0])

    def project(self, patches: Tensor) -> Tensor:
        """Treats every row like the pooled one, ``[batch, patches, e]``."""
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
        self.attends = trunk.attn_pool is not None
        self.class_pooled = trunk.global_pool == "token" and not self.attends

    def embed(self, images: Tensor) -> Tensor:
        x, _ = self._trunk._pos_embed(self._trunk.patch_embed(images))
        return self._trunk.norm_pre(x)

    def enter(self, tokens: Tensor) -> Tensor:
        return self._trunk.norm_pre(tokens)

    def finish(self, x: Tensor) -> Tensor:
        return self._head(self._trunk.forward_head(self._trunk.norm(x)))

    def project(self, patches: Tensor) -> Tensor:
        rows = self._trunk.fc_norm(self._trunk.norm(patches))
        return self._head(self._trunk.head(rows))


def examine_image_tower(visual: Any, name: str) -> ClipAnatomy | EvaAnatomy:
    """The anatomy of a model's image tower, if something can be inserted into its kind.

    Another, run as if it were one of these, would give plausible features that are wrong.
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
    """What is not supported about CLIP's image tower, if anything."""
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
        attention = block.attn
        if (
            type(attention) not in (EvaAttention, AttentionRope)
            or getattr(attention, "rotate_half", False)
            or getattr(attention, "gate", None) is not None
            or getattr(attention, "num_kv_groups", 1) != 1
        ):
            return "its attention is not EVA-CLIP's"
    return None


class ImageTower:
    """A frozen image tower in which a method can act: a ViT of CLIP or of EVA-CLIP.

    Tokens of a method come after the image's own and have no position: they get no
    positional embedding and are not rotated (RoPE), and they are not pooled. Raises
    NotTransferable for a tower of another kind.

    Attributes:
        width: width d of the tokens.
        depth: number of blocks.
        tokens: tokens of an image.
    """

    def __init__(self, visual: nn.Module, name: str) -> None:
        self._visual = visual
        self._name = name
        self._anatomy = examine_image_tower(visual, name)
        self.width = self._anatomy.width
        self.depth = len(self._anatomy.blocks)
        self.tokens = self._anatomy.tokens

    def embed(self, images: Tensor, block: int = 0) -> Tensor:
        """The tokens that enter a block, ``[batch, tokens, d]`` of images ``[batch, 3, H, W]``."""
        if not 0 <= block < self.depth:
            raise NotTransferable(
                f"the method acts from block {block} on, and the image tower has {self.depth}"
            )
        x = self._anatomy.embed(images)
        for run in self._anatomy.blocks[:block]:
            x = run(x, {}, self.tokens)
        return x

    def enter(self, tokens: Tensor) -> Tensor:
        """What the tower makes of tokens ``[n, d]`` added before its first block.

        CLIP normalises all tokens there (``ln_pre``), EVA does not.
        """
        dtype = next(self._visual.parameters()).dtype
        return self._anatomy.enter(tokens.to(dtype)).to(tokens.dtype)

    def encode(
        self,
        hidden: Tensor,
        *,
        block: int = 0,
        prompts: Sequence[Tensor] = (),
        updates: Updates | None = None,
        weights: Mapping[str, Tensor] | None = None,
        dense: bool = False,
    ) -> Tensor:
        """Image features, not normalised, ``[batch, e]``; float32 from a bfloat16 tower.

        Differentiable in hidden tokens, prompts, updates and weights.

        Args:
            hidden: the tokens that enter ``block``, ``[batch, tokens, d]``.
            prompts: tokens appended before ``block``, and what replaces them before the
                blocks that follow, each ``[n, d]``, or ``[batch, n, d]``. Before the first
                block they are taken as they are: see ``enter``. Blocks without prompts of
                their own get those that the block before them has computed.
            updates: added to projections of attention, such as LoRA's.
            weights: replaces the tower's own parameters of these names, which are those of
                ``model.visual.named_parameters()``.
            dense: give the image feature, and behind it each patch, which goes through last
                norm and projection as the pooled row does, ``[batch, 1 + patches, e]``
                (PLOT, arXiv:2210.01253, section 3.2).
        """
        x, anatomy = hidden, self._anatomy
        if weights:
            anatomy = examine_image_tower(replace_parameters(self._visual, weights), self._name)
        last = 1 if anatomy.class_pooled and not dense else self.tokens
        for i in range(block, self.depth):
            if i - block < len(prompts):
                own = prompts[i - block].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, : self.tokens], own], dim=1)
            added = {part: f for (place, part), f in (updates or {}).items() if place == i}
            x = anatomy.blocks[i](x, added, last if i == self.depth - 1 else x.shape[1])
        features = anatomy.finish(x)
        if dense:
            if anatomy.attends:
                raise NotTransferable(
                    "the image tower pools by attention, so patches have no features"
                )
            patches = anatomy.project(x[:, anatomy.extra :])
            features = torch.cat([features[:, None], patches], dim=1)
        return features.float() if features.dtype == torch.bfloat16 else features

    def check_prompts(self, prompts: Sequence[Tensor]) -> None:
        """Refuses prompts of another width, or of more blocks than there are."""
        if prompts and prompts[0].shape[-1] != self.width:
            raise NotTransferable(
                f"the module was made for image tokens of width {prompts[0].shape[-1]}, "
                f"not {self.width}"
            )
        if len(prompts) > self.depth:
            raise NotTransferable(
                f"the module was made for image towers of {len(prompts)} blocks or more, "
                f"not {self.depth}"
            )
