"""open_clip's standard block in parts, the updates of methods in it, and attention over groups.

QuickGELU, ``u * sigmoid(1.702 u)``, is computed as ``silu(1.702 u) / 1.702``: the matrix products
apply both factors at no cost. Both autograd functions below scale their gradients within the
products as well; autograd would scale afterwards, and so round differently.
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
_STANDARD_PARAMETERS = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}


def widen(tensor: Tensor) -> Tensor:
    """Return features or embeddings of a tower in half precision in float32, others unchanged."""
    return tensor.float() if tensor.dtype in HALF else tensor


Part = Literal["q", "k", "v", "attn", "mlp", "block"]
"""A projection of attention, attention (with its output projection), the MLP, or the block."""

PROJECTIONS: tuple[Part, ...] = ("q", "k", "v")

Update = Callable[[Tensor, Tensor], Tensor]
"""A function that replaces a part's output: ``update(output, entered)``, each ``[..., d]``.

``entered`` is the part's input: the rows behind the norm before the part, or for a block the rows
that its attention received. Rows are tokens, packed in any order, so an update must treat each
row alone. Only the projections in an image tower get all tokens of each image, in order,
``[batch, tokens, d]``. An update may be called again for the same rows, and would then draw another
random mask.
"""

BlockUpdates = Mapping[tuple[int, Part], Update]
"""An update for a block, counted from 0, and one of its parts."""

Updates = Mapping[Part, Update]
"""The updates of one block."""


def updates_of(updates: BlockUpdates | None, depth: int, tower: str) -> list[Updates]:
    """Return the updates of each block of a tower with ``depth`` blocks.

    Raises:
        NotTransferable: an update is for a block that the tower does not have.
    """
    block_updates: list[dict[Part, Update]] = [{} for _ in range(depth)]
    for (block, part), update in (updates or {}).items():
        if not 0 <= block < depth:
            raise NotTransferable(
                f"the method acts in block {block} of the {tower} tower, which has {depth}"
            )
        block_updates[block][part] = update
    return block_updates  # type: ignore[return-value]


def apply_update(updates: Updates, part: Part, output: Tensor, entered: Tensor) -> Tensor:
    """Return a part's output, changed by the update of this part if there is one.

    The update gets float32 rows also from a tower in half precision.

    Raises:
        CompatbenchError: the update returned another shape.
    """
    if part not in updates:
        return output
    dtype = output.dtype
    if dtype in HALF:
        output = output.float()
        entered = entered.float()
    changed = updates[part](output, entered)
    if changed.shape != output.shape:
        raise CompatbenchError(
            f"an update of '{part}' must keep the shape {list(output.shape)}, but returned "
            f"{list(changed.shape)}"
        )
    return changed.to(dtype)


def apply_to_projections(updates: Updates, qkv: Tensor, entered: Tensor) -> Tensor:
    """Return queries, keys and values ``[..., 3D]`` of rows, changed by their updates."""
    if updates.keys().isdisjoint(PROJECTIONS):
        return qkv
    changed = []
    for part, y in zip(PROJECTIONS, qkv.chunk(3, dim=-1), strict=True):
        changed.append(apply_update(updates, part, y, entered))
    return torch.cat(changed, dim=-1)


def is_standard(block: nn.Module) -> bool:
    """Return True if a block is norm, multi-head attention, norm and MLP, and nothing else."""
    from open_clip.transformer import Attention, ResidualAttentionBlock

    attention: Any = getattr(block, "attn", None)
    return (
        type(block) is ResidualAttentionBlock
        and not hasattr(block, "ln_1_kv")
        and type(attention) in (nn.MultiheadAttention, Attention)  # the latter in open_clip 4
        and {name for name, _ in attention.named_parameters()} <= _STANDARD_PARAMETERS
        and not getattr(attention, "add_zero_attn", False)
    )


class StandardBlock:
    """A pre-norm block of open_clip; the caller computes the attention between its parts."""

    def __init__(self, block: Any) -> None:
        from open_clip.transformer import QuickGELU

        self.block = block
        self.heads: int = block.attn.num_heads
        self._quick = type(block.mlp.gelu) is QuickGELU

    def project(self, normed: Tensor) -> Tensor:
        """Return queries, keys and values ``[..., 3D]`` of normalised rows ``[..., D]``."""
        return F.linear(normed, self.block.attn.in_proj_weight, self.block.attn.in_proj_bias)

    def finish(self, x: Tensor, mixed: Tensor, updates: Updates, entered: Tensor) -> Tensor:
        """Return the block's output, ``[..., D]``.

        Args:
            x: the block's input rows.
            mixed: the output of attention, before its output projection.
            updates: the updates of this block.
            entered: the normalised rows that attention received.
        """
        block = self.block
        attended = apply_update(updates, "attn", block.attn.out_proj(mixed), entered)
        x = x + block.ls_1(attended)
        normed = block.ln_2(x)
        hidden = apply_update(updates, "mlp", self._mlp(normed), normed)
        x = x + block.ls_2(hidden)
        return apply_update(updates, "block", x, entered)

    def _mlp(self, normed: Tensor) -> Tensor:
        mlp = self.block.mlp
        if self._quick:
            return _quick_mlp(mlp, normed)
        return mlp(normed)


class _Attend(torch.autograd.Function):
    """Attention of groups: queries ``[G, S, d]``, keys and values ``[G, K, d]``.

    ``mask`` is added to the scores, ``[G, S, K]``. It is faster than torch's own attention on
    small groups.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        ctx.scale = query.shape[-1] ** -0.5
        if mask is None:
            scores = _scaled_product(query, key.mT, ctx.scale)
        else:
            scores = torch.baddbmm(mask, query, key.mT, alpha=ctx.scale)
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
    """Return the attention of groups, ``[G, S, d]``; the arguments are those of ``_Attend``."""
    return _Attend.apply(query, key, value, mask)  # type: ignore[return-value]


def _scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.baddbmm(a.new_empty(()), a, b, beta=0, alpha=scale)


def _quick_mlp(mlp: Any, x: Tensor) -> Tensor:
    """Return an MLP with QuickGELU of rows ``[..., D]``; differentiable in its parameters too."""
    expand = mlp.c_fc
    project = mlp.c_proj
    parameters = (expand.weight, expand.bias, project.weight, project.bias)
    rows = x.flatten(0, -2)
    if any(parameter.requires_grad for parameter in parameters):
        hidden = F.silu(_expand(rows, expand.weight, expand.bias))
        out = _project(hidden, project.weight, project.bias)
    else:
        out = _FrozenMlp.apply(rows, *parameters)
    return out.view_as(x)  # type: ignore[union-attr]


def _expand(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, rows, weight.T, beta=_QUICK, alpha=_QUICK)


def _project(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.addmm(bias, hidden, weight.T, alpha=1 / _QUICK)


class _FrozenMlp(torch.autograd.Function):
    """An MLP with QuickGELU and frozen parameters; it keeps only the hidden rows for backward."""

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
        d_rows = torch.addmm(gradient, inner, w1, beta=0, alpha=_QUICK)
        return d_rows, None, None, None, None
