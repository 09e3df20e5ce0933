"""Transfers of a module of weight differences, which carry it as another such module."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.errors import NotTransferable
from compatbench.method import MethodCard, Module
from compatbench.method.transfer import Transfer

_FACTOR = re.compile(r"(text|image)_[ab]")  # of a low-rank update


class WeightTransfer(Transfer):
    """Carries a module that is zero-shot where its tensors are 0."""

    def serves(self, method: MethodCard) -> bool:
        return super().serves(method) and bool(method.zero_shot_at)


def low_rank_towers(module: Module) -> list[str]:
    """The towers in which a module adds b a to W of queries, keys and values.

    Its tensors are ``{tower}_b`` ``[blocks, 3, d, r]`` and ``{tower}_a`` ``[blocks, 3, r, d]``.

    Raises:
        NotTransferable: it has others.
    """
    for name in module.trained:
        if not _FACTOR.fullmatch(name):
            raise NotTransferable(f"'{name}' is no low-rank update")
    return sorted({name.partition("_")[0] for name in module.trained})


def attention_weights(backbone: Backbone, kind: str, like: Tensor) -> Tensor:
    """W of queries, keys and values in the first blocks of a tower, ``[blocks, 3, d, d]``.

    Raises:
        NotTransferable: it has none for factors a, ``[blocks, 3, r, d]``, of this size.
    """
    weights, (blocks, *_, width) = getattr(backbone, kind).weights, like.shape
    names = [f"transformer.resblocks.{i}.attn.in_proj_weight" for i in range(blocks)]
    parts = [weights.get(name) for name in names]
    if any(weight is None or weight.shape != (3 * width, width) for weight in parts):
        raise NotTransferable(f"the {kind} tower of '{backbone.name}' has no such weights")
    return torch.stack(parts).unflatten(1, (3, -1))  # type: ignore[arg-type]


def turn_updates(module: Module, turns: Mapping[str, tuple[Tensor, Tensor]]) -> Module:
    """b a becomes T_outᵀ b a T_in.

    ``turns`` has T_in and T_out for each tower, ``[blocks, 3, d_s, d_t]``.
    """
    new = dict(module.trained)
    for kind, (t_in, t_out) in turns.items():
        a, b = module[f"{kind}_a"], module[f"{kind}_b"]
        new[f"{kind}_a"] = (a.to(t_in) @ t_in).to(a)
        new[f"{kind}_b"] = (t_out.mT @ b.to(t_out)).to(b)
    return Module(new, module.stored)
