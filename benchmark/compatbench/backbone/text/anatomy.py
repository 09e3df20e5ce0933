"""The structure of a text tower, read from its modules and never from its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compatbench.backbone.text.standard_block import is_standard
from compatbench.errors import CompatbenchError


@dataclass(frozen=True)
class Anatomy:
    """The parts of a text tower, and how they are put together.

    Attributes:
        positions: positional embedding, one row for each row of the transformer, ``[L, D]``.
        mask: the causal mask, ``[L, L]``, or None for a bidirectional tower.
        pool: which row is the feature: ``argmax`` and ``eos`` (both the end-of-text token),
            ``first`` or ``last``. If there is a class token, it is pooled instead.
        pad: token id of the padding.
        class_token: appended after the padding (CoCa), ``[D]``.
        shifted_class_mask: CoCa's mask of padding is one column off, as its weights expect.
        pad_mask: padding is hidden from the other rows of a bidirectional tower.
        pads_by_place: padding is everything after the text (transformers); otherwise it is
            every token with the id of padding.
        standard_blocks: all blocks are pre-norm blocks around ``nn.MultiheadAttention``.
    """

    token_embedding: nn.Embedding
    positions: Tensor
    blocks: tuple[nn.Module, ...]
    ln_final: nn.Module
    projection: nn.Module | Tensor | None
    mask: Tensor | None
    pool: str
    pad: int
    class_token: Tensor | None = None
    shifted_class_mask: bool = False
    pad_mask: bool = False
    pads_by_place: bool = False
    standard_blocks: bool = False

    @property
    def context_length(self) -> int:
        """Tokens of the longest text."""
        return len(self.positions) - (self.class_token is not None)

    @property
    def sees_past_only(self) -> bool:
        """Nothing after the end-of-text token can change the feature."""
        pools_end = self.pool in ("argmax", "eos") and self.class_token is None
        return self.mask is not None and pools_end

    @property
    def padding_unseen(self) -> bool:
        """Rows of padding can be left out: nothing that counts attends to them."""
        hidden = self.pad_mask and self.class_token is None and self.pool != "last"
        return self.sees_past_only or hidden

    def project(self, rows: Tensor) -> Tensor:
        """From the tower's width to the joint space, ``[..., e]``."""
        if self.projection is None:
            return rows
        if isinstance(self.projection, nn.Module):
            return self.projection(rows)
        return rows @ self.projection


def examine(model: nn.Module, name: str) -> Anatomy:
    """The anatomy of the text tower of a model (``CLIP``, ``CustomTextCLIP``, ``CoCa``).

    Raises:
        CompatbenchError: a part is not supported. Run as if it were another, the tower would
            give plausible features that are silently wrong.
    """
    own = getattr(model, "text_anatomy", None)
    if callable(own):  # a model of another library
        return own()  # type: ignore[return-value]
    text = getattr(model, "text", None)
    tower: Any = text if isinstance(text, nn.Module) else model
    try:
        anatomy = Anatomy(
            token_embedding=tower.token_embedding,
            positions=tower.positional_embedding,
            blocks=tuple(tower.transformer.resblocks),
            ln_final=tower.ln_final,
            projection=tower.text_projection,
            mask=tower.attn_mask,
            pool=getattr(tower, "pool_type", None) or tower.text_pool_type,
            class_token=getattr(tower, "cls_emb", None),
            shifted_class_mask=not getattr(tower, "correct_cls_mask", False),
            pad_mask=getattr(tower, "use_pad_mask", False),
            pad=getattr(tower, "pad_id", 0),
            standard_blocks=all(is_standard(b) for b in tower.transformer.resblocks),
        )
        context_length = tower.context_length
    except AttributeError as error:
        raise _refusal(name, f"it has no '{error.name}'") from None
    odd = _odd_part(anatomy, tower.transformer)
    if not odd and anatomy.context_length != context_length:
        odd = f"it has {len(anatomy.positions)} positions for {context_length} tokens"
    if odd:
        raise _refusal(name, odd)
    return anatomy


def _refusal(name: str, reason: str) -> CompatbenchError:
    return CompatbenchError(f"backbone '{name}': its text tower is not supported: {reason}")


def _odd_part(anatomy: Anatomy, transformer: nn.Module) -> str | None:
    """What is not supported about a tower, if anything."""
    from open_clip.transformer import Transformer

    if type(transformer) is not Transformer or not transformer.batch_first:
        return "its transformer is not open_clip's"
    if not anatomy.blocks or not all(_is_known(block) for block in anatomy.blocks):
        return "its blocks are not open_clip's"
    # Its values are checked: the attribute may hold any mask.
    if anatomy.mask is not None and not _is_causal(anatomy.mask):
        return "its attention mask is not the causal one"
    if anatomy.pool not in ("argmax", "eos", "first", "last"):
        return f"it is pooled by '{anatomy.pool}'"
    return None


def _is_causal(mask: Tensor) -> bool:
    future = torch.ones_like(mask).triu(1).bool()
    return bool(torch.isneginf(mask).eq(future).all() and (mask[~future] == 0).all())


def _is_known(block: nn.Module) -> bool:
    from open_clip.transformer import Attention, CustomResidualAttentionBlock

    if is_standard(block):
        return True
    attention = getattr(block, "attn", None)
    # open_clip's own scaled cosine attention does not run.
    return (
        type(block) is CustomResidualAttentionBlock
        and type(attention) is Attention
        and attention.logit_scale is None
    )
