"""Transfers that turn a module of weight differences into another such module."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.method import MethodCard, Module
from compatbench.method.transfer import Transfer

# The name of a factor of low-rank updates.
_FACTOR = re.compile(r"(text|image)_[ab]")


class WeightTransfer(Transfer):
    """A transfer for modules that are zero-shot where their tensors are 0."""

    def serves(self, method: MethodCard) -> bool:
        return super().serves(method) and bool(method.zero_shot_at)


def low_rank_towers(module: Module) -> list[str]:
    """Return the towers in which a module adds b a to W of queries, keys and values.

    Its tensors are ``{tower}_b`` ``[blocks, 3, d, r]`` and ``{tower}_a`` ``[blocks, 3, r, d]``.

    Raises:
        NotTransferable: the module has other tensors.
    """
    for name in module.trained:
        if not _FACTOR.fullmatch(name):
            raise NotTransferable(f"'{name}' is no low-rank update")
    return sorted({name.partition("_")[0] for name in module.trained})


def attention_weights(backbone: Backbone, kind: str, like: Tensor) -> Tensor:
    """Return W of queries, keys and values in the first blocks of a tower, ``[blocks, 3, d, d]``.

    Args:
        kind: ``text`` or ``image``.
        like: factors a, ``[blocks, 3, r, d]``, with the number of blocks and the width.

    Raises:
        NotTransferable: the tower has no such weights, or their size is another.
    """
    blocks, _, _, width = like.shape
    weights = getattr(backbone, kind).weights
    matrices = []
    for block in range(blocks):
        weight = weights.get(f"transformer.resblocks.{block}.attn.in_proj_weight")
        if weight is None or weight.shape != (3 * width, width):
            raise NotTransferable(f"the {kind} tower of '{backbone.name}' has no such weights")
        matrices.append(weight)
    return torch.stack(matrices).unflatten(1, (3, -1))


def turn_updates(module: Module, turns: Mapping[str, tuple[Tensor, Tensor]]) -> Module:
    """Return the module with T_outᵀ b a T_in in place of b a.

    Args:
        turns: T_in and T_out of each tower, ``[blocks, 3, d_s, d_t]``.
    """
    new = dict(module.trained)
    for kind, (t_in, t_out) in turns.items():
        a = module[f"{kind}_a"]
        b = module[f"{kind}_b"]
        new[f"{kind}_a"] = (a.to(t_in) @ t_in).to(a)
        new[f"{kind}_b"] = (t_out.mT @ b.to(t_out)).to(b)
    return Module(new, module.stored)
