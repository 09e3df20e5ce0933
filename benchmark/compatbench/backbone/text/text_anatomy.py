"""The structure of a text tower, read from its modules and never from its name.

A method can change the tower itself (biases, low-rank updates): ``replace`` gives the same tower
with other weights. The frozen model is never modified, and gradients reach whatever the weights
were computed from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compatbench.backbone.parts.blocks import is_standard
from compatbench.backbone.parts.parameters import check_weights, replace_parameters
from compatbench.errors import CompatbenchError


@dataclass(frozen=True)
class TextAnatomy:
    """The parts of a text tower, and their order."""

    token_embedding: nn.Embedding
    positions: Tensor  # one row for each row of the transformer, ``[L, D]``
    blocks: tuple[nn.Module, ...]
    ln_final: nn.Module
    projection: nn.Module | Tensor | None
    mask: Tensor | None  # the causal mask, ``[L, L]``, or None for a bidirectional tower
    # The row that becomes the feature: ``argmax`` and ``eos`` (both the end-of-text token),
    # ``first`` or ``last``. If there is a class token, it is pooled instead.
    pool: str
    pad: int  # token id of the padding
    class_token: Tensor | None = None  # appended after the padding (CoCa), ``[D]``
    shifted_class_mask: bool = False  # CoCa's mask is one column off, as its weights expect
    pad_mask: bool = False  # padding is hidden from the other rows of a bidirectional tower
    # Padding is everything after the text (transformers), not every token with its id.
    pads_by_place: bool = False
    standard_blocks: bool = False  # all are pre-norm blocks, see ``is_standard``

    @property
    def context_length(self) -> int:
        """Return the number of tokens of the longest text."""
        if self.class_token is None:
            return len(self.positions)
        return len(self.positions) - 1

    @property
    def sees_past_only(self) -> bool:
        """Return True if nothing after the end-of-text token can change the feature."""
        pools_end = self.pool in ("argmax", "eos") and self.class_token is None
        return self.mask is not None and pools_end

    @property
    def padding_unseen(self) -> bool:
        """Return True if padding can be left out, because no row that counts attends to it."""
        hidden = self.pad_mask and self.class_token is None and self.pool != "last"
        return self.sees_past_only or hidden

    def project(self, rows: Tensor) -> Tensor:
        """Return rows of the tower's width, projected to the embedding space, ``[..., e]``."""
        if self.projection is None:
            return rows
        if isinstance(self.projection, nn.Module):
            return self.projection(rows)
        return rows @ self.projection

    def weights(self) -> dict[str, Tensor]:
        """Return all weights behind the embeddings, by open_clip's names within the text tower.

        The same part has the same name in every model, such as
        ``transformer.resblocks.0.attn.in_proj_bias``.
        """
        tensors = {name: tensor.detach() for name, tensor in self._whole().named_parameters()}
        # The projection comes last.
        return dict(sorted(tensors.items(), key=lambda item: item[0] == "text_projection"))

    def replace(self, weights: Mapping[str, Tensor]) -> TextAnatomy:
        """Return the tower with some weights replaced; the model itself does not change."""
        check_weights(weights, self.weights(), "text")
        whole: Any = replace_parameters(self._whole(), weights)
        return dataclasses.replace(
            self,
            blocks=tuple(whole.transformer.resblocks),
            ln_final=whole.ln_final,
            projection=whole.text_projection,
        )

    def _whole(self) -> nn.Module:
        """Return the parts that hold weights as one module, nested as in open_clip's tower."""
        whole: Any = nn.Module()
        whole.transformer = nn.Module()
        whole.transformer.resblocks = nn.ModuleList(self.blocks)
        whole.ln_final = self.ln_final
        whole.text_projection = self.projection
        return whole


def text_tower(model: nn.Module) -> Any:
    """Return open_clip's module that holds the text tower; in some models the model itself."""
    text = getattr(model, "text", None)
    return text if isinstance(text, nn.Module) else model


def examine_text_tower(model: nn.Module, name: str) -> TextAnatomy:
    """Return the anatomy of the text tower of a model (``CLIP``, ``CustomTextCLIP``, ``CoCa``).

    Raises:
        CompatbenchError: the tower is of an unknown kind. Run as if it were known, it would
            give plausible features that are wrong.
    """
    if hasattr(model, "text_anatomy"):  # a model of another library
        return model.text_anatomy()  # type: ignore[operator, return-value]
    tower = text_tower(model)
    try:
        anatomy = TextAnatomy(
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
            standard_blocks=all(is_standard(block) for block in tower.transformer.resblocks),
        )
        problem = _find_problem(anatomy, tower)
    except AttributeError as error:
        anatomy = None
        problem = f"it has no '{error.name}'"
    if anatomy is None or problem:
        raise CompatbenchError(f"backbone '{name}': its text tower is not supported: {problem}")
    return anatomy


def _find_problem(anatomy: TextAnatomy, tower: Any) -> str | None:
    """Return the first property of a tower that is not supported; None if all are."""
    from open_clip.transformer import Transformer

    inner = tower.transformer
    if type(inner) is not Transformer or not getattr(inner, "batch_first", True):
        return "its transformer is not open_clip's"
    if not anatomy.blocks or not all(_is_known(block) for block in anatomy.blocks):
        return "its blocks are not open_clip's"
    # Compare the values: the attribute may hold any mask.
    mask = anatomy.mask
    if mask is not None:
        causal = torch.full_like(mask, -torch.inf).triu(1)
        if not torch.equal(mask, causal):
            return "its attention mask is not the causal one"
    if anatomy.pool not in ("argmax", "eos", "first", "last"):
        return f"it is pooled by '{anatomy.pool}'"
    if anatomy.context_length != tower.context_length:
        return f"it has {len(anatomy.positions)} positions for {tower.context_length} tokens"
    return None


def _is_known(block: nn.Module) -> bool:
    from open_clip.transformer import Attention, CustomResidualAttentionBlock

    if type(block) is not CustomResidualAttentionBlock:
        return is_standard(block)
    # open_clip's own scaled cosine attention does not run.
    return type(block.attn) is Attention and block.attn.logit_scale is None
