"""open_clip's standard block in parts, what methods change in it, and attention over groups.

QuickGELU, ``u * sigmoid(1.702 u)``, is computed as ``silu(1.702 u) / 1.702``: its factors are
those of the matrix products, and cost nothing. Both functions scale their gradients within the
products as well; autograd would do that afterwards, and so round differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from compatbench.errors import CompatbenchError, NotTransferable

HALF = (torch.bfloat16, torch.float16)
"""Precisions of towers whose results become float32."""

_QUICK = 1.702
_PLAIN = {f"{part}{of}" for part in ("in_proj_", "out_proj.") for of in ("weight", "bias")}


def widen(tensor: Tensor) -> Tensor:
    """Features and embeddings are float32, also those of a tower in half precision."""
    return tensor.float() if tensor.dtype in HALF else tensor


Part = Literal["q", "k", "v", "attn", "mlp", "block"]
"""A projection of attention, attention (behind its output projection), the MLP, or the block."""

PROJECTIONS: tuple[Part, ...] = ("q", "k", "v")

Update = Callable[[Tensor, Tensor], Tensor]
"""What takes the place of a part's output ``[..., d]``, from it and from what the part was given.

That is ``[..., d]`` too: the rows behind the norm before the part, and for a block those that its
attention was given. Rows are tokens, packed in any order, so it must treat each alone. It may be
called again for the same rows; a mask that it draws would be another.
"""

BlockUpdates = Mapping[tuple[int, Part], Update]
"""An update for a block, counted from 0, and one of its parts."""

Updates = Mapping[Part, Update]
"""The updates of one block."""


def updates_of(updates: BlockUpdates | None, depth: int, tower: str) -> list[Updates]:
    """The updates of each block of a tower.

    Raises:
        NotTransferable: there are fewer blocks.
    """
    of_blocks: list[dict[Part, Update]] = [{} for _ in range(depth)]
    for (block, part), update in (updates or {}).items():
        if not 0 <= block < depth:
            raise NotTransferable(
                f"the method acts in block {block} of the {tower} tower, which has {depth}"
            )
        of_blocks[block][part] = update
    return of_blocks  # type: ignore[return-value]


def apply_update(updates: Updates, part: Part, output: Tensor, entered: Tensor) -> Tensor:
    """A part's output, changed if there is an update of it, which sees rows of a tower in half
    precision in float32."""
    if part not in updates:
        return output
    dtype = output.dtype
    if dtype in HALF:
        output, entered = output.float(), entered.float()
    changed = updates[part](output, entered)
    if changed.shape != output.shape:
        raise CompatbenchError(
            f"an update of '{part}' made {list(changed.shape)} of {list(output.shape)}"
        )
    return changed.to(dtype)


def apply_to_projections(updates: Updates, qkv: Tensor, entered: Tensor) -> Tensor:
    """Queries, keys and values ``[..., 3D]`` of rows, changed by the updates of them."""
    if updates.keys().isdisjoint(PROJECTIONS):
        return qkv
    parts = zip(PROJECTIONS, qkv.chunk(3, dim=-1), strict=True)
    return torch.cat([apply_update(updates, p, y, entered) for p, y in parts], dim=-1)


def is_standard(block: nn.Module) -> bool:
    """Whether a block is norm, multi-head attention, norm and MLP, and nothing else."""
    from open_clip.transformer import Attention, ResidualAttentionBlock

    attention: Any = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and type(attention) in (nn.MultiheadAttention, Attention)  # the latter in open_clip 4
        and {name for name, _ in attention.named_parameters()} <= _PLAIN
        and not getattr(attention, "add_zero_attn", False)
    )


class StandardBlock:
    """A pre-norm block of open_clip; what stands between its parts is the caller's attention."""

    def __init__(self, block: Any) -> None:
        from open_clip.transformer import QuickGELU

        self.block = block
        self.heads: int = block.attn.num_heads
        self._quick = type(block.mlp.gelu) is QuickGELU

    def project(self, normed: Tensor) -> Tensor:
        """Queries, keys and values ``[..., 3D]`` of normalised rows ``[..., D]``."""
        return F.linear(normed, self.block.attn.in_proj_weight, self.block.attn.in_proj_bias)

    def finish(self, x: Tensor, mixed: Tensor, updates: Updates, entered: Tensor) -> Tensor:
        """The block's output, from its input rows and what attention was given and computed."""
        block = self.block
        x = x + block.ls_1(apply_update(updates, "attn", block.attn.out_proj(mixed), entered))
        normed = block.ln_2(x)
        x = x + block.ls_2(apply_update(updates, "mlp", self._mlp(normed), normed))
        return apply_update(updates, "block", x, entered)

    def _mlp(self, normed: Tensor) -> Tensor:
        mlp = self.block.mlp
        return _quick_mlp(mlp, normed) if self._quick else mlp(normed)


class _Attend(torch.autograd.Function):
    """Attention of groups: queries ``[G, S, d]``, keys and values ``[G, K, d]``.

    ``mask`` is added to the scores, ``[G, S, K]``. On small groups faster than torch's own.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        ctx.scale = query.shape[-1] ** -0.5
        scores = (
            _scaled_product(query, key.mT, ctx.scale)
            if mask is None
            else torch.baddbmm(mask, query, key.mT, alpha=ctx.scale)
        )
        shares = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(query, key, value, shares)
        return torch.bmm(shares, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, shares = ctx.saved_tensors
        scores = torch.bmm(gradient, value.mT)
        scores = torch.ops.aten._softmax_backward_data(scores, shares, -1, shares.dtype)
        d_query = _scaled_product(scores, key, ctx.scale)
        d_key = _scaled_product(scores.mT, query, ctx.scale)
        return d_query, d_key, torch.bmm(shares.mT, gradient), None


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return the attention of groups, as of ``_Attend``."""
    return _Attend.apply(query, key, value, mask)  # type: ignore[return-value]


def _scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _quick_mlp(mlp: Any, x: Tensor) -> Tensor:
    """An MLP with QuickGELU of rows ``[..., D]``; differentiable in its parameters, too."""
    parameters = mlp.c_fc.weight, mlp.c_fc.bias, mlp.c_proj.weight, mlp.c_proj.bias
    rows = x.flatten(0, -2)
    if any(parameter.requires_grad for parameter in parameters):
        out = _project(F.silu(_expand(rows, *parameters[:2])), *parameters[2:])
    else:
        out = _FrozenMlp.apply(rows, *parameters)
    return out.view_as(x)  # type: ignore[union-attr]


def _expand(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, rows, weight.T, beta=_QUICK, alpha=_QUICK)


def _project(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, hidden, weight.T, alpha=1 / _QUICK)


class _FrozenMlp(torch.autograd.Function):
    """Keeps the hidden rows alone."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        hidden = _expand(rows, w1, b1)
        ctx.save_for_backward(hidden, w1, w2)
        return _project(F.silu(hidden), w2, b2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, w1, w2 = ctx.saved_tensors
        inner = torch.addmm(hidden, gradient, w2, beta=0, alpha=1 / _QUICK)
        inner = torch.ops.aten.silu_backward(inner, hidden)
        return torch.addmm(gradient, inner, w1, beta=0, alpha=_QUICK), None, None, None, None
