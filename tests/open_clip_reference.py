"""What open_clip itself computes: the full context, the causal mask, no shortcut."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compatbench.backbone import Backbone


def encode_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """``encode_text`` of the model on token ids padded to the whole context."""
    return backbone.model.encode_text(backbone.tokenizer(list(texts)))  # type: ignore[operator, union-attr]


def encode_contexts(backbone: Backbone, names: Sequence[str], context: Tensor) -> Tensor:
    """CoOp's prompt learner: placeholders are tokenised, then overwritten by the context.

    ``context`` is ``[M, D]`` for all classes, or ``[C, M, D]``.
    """
    length = context.shape[-2]
    ids = backbone.tokenizer([" ".join(["X"] * length) + f" {name}." for name in names])
    tower: nn.Module = getattr(backbone.model, "text", backbone.model)  # type: ignore[assignment]
    rows = []
    for c in range(len(names)):
        words = tower.token_embedding(ids[c])  # type: ignore[operator]
        own = context if context.ndim == 2 else context[c]
        rows.append(torch.cat([words[:1], own, words[1 + length :]]))
    return run_tower(tower, torch.stack(rows), ids.argmax(-1))


def run_tower(tower: nn.Module, embeddings: Tensor, last: Tensor) -> Tensor:
    """Features of embeddings ``[n, T, D]`` that fill the context, read at row ``last[i]``."""
    x = embeddings + tower.positional_embedding  # type: ignore[operator]
    x = tower.transformer(x, attn_mask=tower.attn_mask)  # type: ignore[operator]
    x = tower.ln_final(x)  # type: ignore[operator]
    return x[torch.arange(len(x)), last] @ tower.text_projection  # type: ignore[operator]
