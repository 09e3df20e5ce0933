"""Reorder the units of a CLIP tower: permuted weights that compute the same function."""

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
    """Return a weight with its units in another order; queries, keys and values separately."""
    if ".in_proj_" not in name:
        return permute(name, tensor, order)
    parts = []
    for letter, part in zip("qkv", tensor.chunk(3), strict=True):
        parts.append(permute(name.replace(".in_proj_", f".{letter}."), part, order))
    return torch.cat(parts)


def permute(name: str, tensor: Tensor, order: Mapping[str, Tensor]) -> Tensor:
    for axis, group in enumerate(axes_of(name, tensor.ndim)):
        if group is not None:
            tensor = tensor.index_select(axis, order[group])
    return tensor


def axes_of(name: str, ndim: int) -> tuple[str | None, ...]:
    """Return the groups on a weight's axes; empty if none is known."""
    block = BLOCK.fullmatch(name)
    if block:
        number, part = block.groups()
        groups = []
        for group in IN_BLOCKS.get(part, ()):
            groups.append(group if group == "stream" else f"{number}.{group}")
        return tuple(groups)[:ndim]
    return AT_ENDS.get(re.sub(r"\.(weight|bias)$", "", name), ())[:ndim]
