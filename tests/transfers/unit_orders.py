"""The units of a CLIP tower in another order: the same function with permuted weights."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# The group of units on each axis of a weight; a bias has the first. "stream" is the residual
# stream, one for the tower. The others are each block's own: channels of heads, which queries and
# keys share, those of values, and the MLP's inner units.
IN_BLOCKS = {
    "attn.q": ("qk", "stream"),
    "attn.k": ("qk", "stream"),
    "attn.v": ("v", "stream"),
    "attn.out_proj": ("stream", "v"),
    "mlp.c_fc": ("mlp", "stream"),
    "mlp.c_proj": ("stream", "mlp"),
    "ln_1": ("stream",),
    "ln_2": ("stream",),
}
AT_ENDS = {
    "conv1": ("stream", None, None, None),
    "class_embedding": ("stream",),
    "positional_embedding": (None, "stream"),
    "ln_pre": ("stream",),
    "ln_post": ("stream",),
    "ln_final": ("stream",),
    "proj": ("stream", None),
    "text_projection": ("stream", None),
}
BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.(.+?)(?:\.weight|\.bias)?")


def reorder(name: str, tensor: Tensor, order: Mapping[str, Tensor]) -> Tensor:
    """Return a weight with its units in another order; queries, keys and values each by theirs."""
    if ".in_proj_" not in name:
        return permute(name, tensor, order)
    parts = [
        permute(name.replace(".in_proj_", f".{letter}."), part, order)
        for letter, part in zip("qkv", tensor.chunk(3), strict=True)
    ]
    return torch.cat(parts)


def permute(name: str, tensor: Tensor, order: Mapping[str, Tensor]) -> Tensor:
    for axis, group in enumerate(axes_of(name, tensor.ndim)):
        if group is not None:
            tensor = tensor.index_select(axis, order[group])
    return tensor


def axes_of(name: str, ndim: int) -> tuple[str | None, ...]:
    """Return the groups on a weight's axes; empty if none is known."""
    if block := BLOCK.fullmatch(name):
        number, part = block.groups()
        groups = IN_BLOCKS.get(part, ())
        return tuple(g if g == "stream" else f"{number}.{g}" for g in groups)[:ndim]
    return AT_ENDS.get(re.sub(r"\.(weight|bias)$", "", name), ())[:ndim]
