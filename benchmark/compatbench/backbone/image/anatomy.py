"""The structure of an image tower, read from its modules and never from its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from compatbench.backbone.image.blocks import (
    Added,
    ClipBlock,
    EvaBlock,
    odd_clip_block,
    odd_eva_block,
)
from compatbench.errors import NotTransferable

Block = Callable[[Tensor, Added, int], Tensor]


class ImageAnatomy(Protocol):
    """The parts of an image tower, and how they are put together.

    Attributes:
        width: width d of its tokens.
        tokens: tokens of an image, class token and registers first.
        extra: tokens before the patches.
        blocks: each from tokens, what is added inside, and the rows wanted, to those rows.
        class_pooled: the feature depends on the last block's first row alone.
    """

    width: int
    tokens: int
    extra: int
    blocks: Sequence[Block]
    class_pooled: bool

    def embed(self, images: Tensor) -> Tensor:
        """The input of the first block, ``[batch, tokens, d]`` of ``[batch, 3, H, W]``."""
        ...

    def enter(self, tokens: Tensor) -> Tensor:
        """Applies the norm before the first block, if there is one."""
        ...

    def finish(self, x: Tensor) -> Tensor:
        """From the output of the last block to image features, ``[batch, e]``."""
        ...

    def project(self, patches: Tensor) -> Tensor:
        """Treats every row like the pooled one, ``[batch, patches, e]``."""
        ...


class ClipAnatomy(ImageAnatomy):
    """open_clip's ``VisionTransformer``."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual
        positions = visual.positional_embedding
        self.tokens, self.width = positions.shape
        self.extra = 1
        self.blocks = [ClipBlock(block) for block in visual.transformer.resblocks]
        self.class_pooled = visual.pool_type == "tok" and visual.attn_pool is None

    def embed(self, images: Tensor) -> Tensor:
        return self._visual._embeds(images)

    def enter(self, tokens: Tensor) -> Tensor:
        return self._visual.ln_pre(tokens)

    def finish(self, x: Tensor) -> Tensor:
        pooled, _ = self._visual._pool(x)
        return self._to_joint_space(pooled)

    def project(self, patches: Tensor) -> Tensor:
        _check_pooling(self._visual)
        return self._to_joint_space(self._visual.ln_post(patches))

    def _to_joint_space(self, rows: Tensor) -> Tensor:
        return rows if self._visual.proj is None else rows @ self._visual.proj

    @staticmethod
    def odd_part(visual: Any) -> str | None:
        """What is not supported about a tower, if anything."""
        if visual.pool_type not in ("tok", "avg"):
            return f"it is pooled by '{visual.pool_type}'"
        if not visual.transformer.batch_first:
            return "its batch is not the first dimension"
        return _first(odd_clip_block, visual.transformer.resblocks)


class EvaAnatomy(ImageAnatomy):
    """timm's ``Eva`` in open_clip's ``TimmModel``: EVA-CLIP and EVA02-CLIP."""

    def __init__(self, visual: Any) -> None:
        self._head, self._trunk = visual.head, visual.trunk
        trunk = visual.trunk
        self.width = trunk.embed_dim
        self.extra = trunk.num_prefix_tokens
        self.tokens = self.extra + trunk.patch_embed.num_patches
        self.blocks = [EvaBlock(block, self._rope_of(i)) for i, block in enumerate(trunk.blocks)]
        self.class_pooled = trunk.global_pool == "token" and trunk.attn_pool is None

    def _rope_of(self, block: int) -> Callable[[], Tensor] | None:
        rope = self._trunk.rope
        if rope is None:
            return None
        if self._trunk.rope_mixed:
            return lambda: rope.get_embed()[block]
        return rope.get_embed

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

    @staticmethod
    def odd_part(visual: Any) -> str | None:
        """What is not supported about a tower, if anything."""
        trunk = visual.trunk
        if trunk.global_pool not in ("token", "avg", "map"):
            return f"it is pooled by '{trunk.global_pool}'"
        if trunk.dynamic_img_size:
            return "its images have no fixed size"
        if trunk.rope is not None and not hasattr(trunk.rope, "feat_shape"):
            return "its rotary positions have no fixed grid"
        return _first(odd_eva_block, trunk.blocks)


def examine_image_tower(visual: nn.Module, name: str) -> ImageAnatomy:
    """The anatomy of a model's image tower.

    Raises:
        NotTransferable: nothing can be inserted into a tower of this kind. Run as if it were
            another, it would give plausible features that are silently wrong.
    """
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer
    from timm.models.eva import Eva

    if type(visual) is VisionTransformer:
        kind = ClipAnatomy
    elif type(visual) is TimmModel and type(visual.trunk) is Eva:
        kind = EvaAnatomy
    else:
        inner = getattr(visual, "trunk", visual)
        raise _refusal(name, f"'{type(inner).__name__}' is neither CLIP's nor EVA's transformer")
    if odd := kind.odd_part(visual):
        raise _refusal(name, odd)
    return kind(visual)


def _check_pooling(tower: Any) -> None:
    if tower.attn_pool is not None:
        raise NotTransferable("the image tower pools by attention, so patches have no features")


def _refusal(name: str, reason: str) -> NotTransferable:
    return NotTransferable(f"nothing can be inserted into the image tower of '{name}': {reason}")


def _first(odd: Callable[[Any], str | None], blocks: Sequence[Any]) -> str | None:
    return next((reason for block in blocks if (reason := odd(block))), None)
