"""What open_clip itself computes: the full context, the causal mask, no shortcut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compatbench.backbone import Backbone


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers of the size of embeddings, whose gradient is wanted."""
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(shape, generator=generator, dtype=dtype)).requires_grad_()


def text_tower(backbone: Backbone) -> Any:
    """open_clip's module with the text tower's parts."""
    return getattr(backbone.model, "text", backbone.model)


def encode_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """``encode_text`` of the model on token ids padded to the whole context."""
    return backbone.model.encode_text(backbone.tokenizer(list(texts)))  # type: ignore[operator, union-attr]


def encode_contexts(
    backbone: Backbone,
    names: Sequence[str],
    context: Tensor,
    *,
    before: int | None = None,
    replaced: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """CoOp's prompt learner: placeholders are tokenised, then overwritten by the context.

    Args:
        context: ``[M, D]`` for all classes, or ``[C, M, D]``.
        before: rows of the context before the name, the others come after it; default all.
        replaced: for a block, what replaces the rows after start-of-text before it.
    """
    length, tower = context.shape[-2], text_tower(backbone)
    before = length if before is None else before
    ids = backbone.tokenizer([" ".join(["X"] * length) + f" {name}." for name in names])
    rows = []
    for c, name in enumerate(names):
        words = tower.token_embedding(ids[c])
        own = context if context.ndim == 2 else context[c]
        end = 1 + length + len(backbone.tokenizer.encode(name))
        parts = [words[:1], own[:before], words[1 + length : end], own[before:], words[end:]]
        rows.append(torch.cat(parts))
    return run_tower(tower, torch.stack(rows), ids.argmax(-1), replaced)


def run_tower(
    tower: nn.Module, embeddings: Tensor, last: Tensor, replaced: Mapping[int, Tensor] | None = None
) -> Tensor:
    """Features of embeddings ``[n, T, D]`` that fill the context, read at row ``last[i]``."""
    parts: Any = tower
    x = embeddings + parts.positional_embedding
    for i, block in enumerate(parts.transformer.resblocks):
        if replaced and i in replaced:
            own = replaced[i].expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], own, x[:, 1 + own.shape[1] :]], dim=1)
        x = block(x, attn_mask=parts.attn_mask)
    x = parts.ln_final(x)
    return x[torch.arange(len(x)), last] @ parts.text_projection


def assert_same(found: Tensor, expected: Tensor, inputs: Sequence[Tensor]) -> None:
    """Features, and gradients of a non-linear function in which every class counts differently."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
    gradients = [torch.autograd.grad((weight * x).sin().sum(), inputs) for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)
    assert all(gradient.abs().max() > 0 for gradient in gradients[1])
