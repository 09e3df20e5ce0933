"""Features as open_clip computes them: the full context, the causal mask, no shortcut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from open_clip.coca_model import CoCa
from torch import Tensor

from compatbench.backbone import Backbone


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return random numbers of the size of embeddings that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (0.3 * numbers).requires_grad_()


def text_tower(backbone: Backbone) -> Any:
    """Return the module of open_clip with the parts of the text tower."""
    return getattr(backbone.model, "text", backbone.model)


def encode_texts(
    backbone: Backbone,
    texts: Sequence[str],
    context: Tensor | None = None,
    replaced: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Return the model's ``encode_text`` of token ids padded to the whole context.

    Args:
        context: overwrites the embeddings after start-of-text, ``[M, D]`` or ``[C, M, D]``.
        replaced: by block, the rows that overwrite those after start-of-text before it.
    """
    model = backbone.model
    tower = text_tower(backbone)

    def overwrite(x: Tensor, rows: Tensor) -> Tensor:
        rows = rows.expand(len(x), -1, -1)
        return torch.cat([x[:, :1], rows, x[:, 1 + rows.shape[1] :]], dim=1)

    hooks = []
    for block, rows in (replaced or {}).items():
        module = tower.transformer.resblocks[block]
        hook = module.register_forward_pre_hook(
            lambda _, given, rows=rows: overwrite(given[0], rows)
        )
        hooks.append(hook)
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
    """Encode as CoOp's prompt learner: tokenise placeholders, overwrite them by the context."""
    placeholders = " ".join(["X"] * context.shape[-2])
    texts = [f"{placeholders} {name}." for name in names]
    return encode_texts(backbone, texts, context, replaced)


def run_tower(tower: Any, embeddings: Tensor, last: Tensor) -> Tensor:
    """Return the features of embeddings ``[n, T, D]`` at row ``last[i]``; T fills the context."""
    x = embeddings + tower.positional_embedding
    x = tower.ln_final(tower.transformer(x, attn_mask=tower.attn_mask))
    return x[torch.arange(len(x)), last] @ tower.text_projection


def assert_same(found: Tensor, expected: Tensor, inputs: Sequence[Tensor] = ()) -> None:
    """Compare features, and the gradients of a loss that weights every class differently."""
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    if not inputs:
        return
    generator = torch.Generator().manual_seed(9)
    weight = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
    loss = (weight * found).sin().sum()
    expected_loss = (weight * expected).sin().sum()
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True)
    expected_gradients = torch.autograd.grad(expected_loss, inputs, retain_graph=True)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-10)
    for gradient in expected_gradients:
        assert gradient.abs().max() > 0
