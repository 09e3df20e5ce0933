"""What open_clip itself computes: the full context, the causal mask, no shortcut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from open_clip.coca_model import CoCa
from torch import Tensor

from compatbench.backbone import Backbone


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers of the size of embeddings, whose gradient is wanted."""
    generator = torch.Generator().manual_seed(seed)
    return (0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()


def text_tower(backbone: Backbone) -> Any:
    """open_clip's module with the text tower's parts."""
    return getattr(backbone.model, "text", backbone.model)


def encode_texts(
    backbone: Backbone,
    texts: Sequence[str],
    context: Tensor | None = None,
    replaced: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """``encode_text`` of the model on token ids padded to the whole context.

    Args:
        context: overwrites the embeddings after start-of-text, ``[M, D]`` or ``[C, M, D]``.
        replaced: for a block, what overwrites the rows after start-of-text before it.
    """
    model, tower = backbone.model, text_tower(backbone)

    def overwrite(x: Tensor, rows: Tensor) -> Tensor:
        rows = rows.expand(len(x), -1, -1)
        return torch.cat([x[:, :1], rows, x[:, 1 + rows.shape[1] :]], dim=1)

    hooks = [
        tower.transformer.resblocks[block].register_forward_pre_hook(
            lambda _, given, rows=rows: overwrite(given[0], rows)
        )
        for block, rows in (replaced or {}).items()
    ]
    if context is not None:
        hooks.append(
            tower.token_embedding.register_forward_hook(lambda *x: overwrite(x[2], context))
        )
    try:
        options = {"normalize": False} if isinstance(model, CoCa) else {}
        return model.encode_text(backbone.tokenizer(list(texts)), **options)  # type: ignore[operator]
    finally:
        for hook in hooks:
            hook.remove()


def encode_contexts(
    backbone: Backbone,
    names: Sequence[str],
    context: Tensor,
    replaced: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """CoOp's prompt learner: placeholders are tokenised, then overwritten by the context."""
    placeholders = " ".join(["X"] * context.shape[-2])
    return encode_texts(backbone, [f"{placeholders} {name}." for name in names], context, replaced)


def run_tower(tower: Any, embeddings: Tensor, last: Tensor) -> Tensor:
    """Features of embeddings ``[n, T, D]`` that fill the context, read at row ``last[i]``."""
    x = embeddings + tower.positional_embedding
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask))
    return x[torch.arange(len(x)), last] @ tower.text_projection


def assert_same(found: Tensor, expected: Tensor, inputs: Sequence[Tensor] = ()) -> None:
    """Features, and gradients of a non-linear function in which every class counts differently."""
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if not inputs:
        return
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
    losses = [(weight * features).sin().sum() for features in (found, expected)]
    gradients = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in losses]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-10)
    assert all(gradient.abs().max() > 0 for gradient in gradients[1])
