"""Subspace: low-rank updates act only where the target's own weights do."""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.errors import NotTransferable
from compatbench.method import Classifier, Method, MethodCard, Module
from compatbench.method.transfer import Transfer, TransferCard, TransferData

from .transfusion import PROJECTIONS, split, tower_weights, towers_of

# The share of the squared singular values of a weight that its subspace holds.
SHARE = 0.9


class Subspace(Transfer):
    """ΔW = b a becomes U Uᵀ ΔW V Vᵀ, with U, V the leading subspaces of the target's own W.

    That an update should act inside the subspaces of the model it is put on is the idea of LoRA-X
    (arXiv:2501.16559) and Cross-LoRA (arXiv:2508.05232), whose exact steps are not published as
    code; this is neither of them. The subspaces hold 90 % of W's squared singular values.
    """

    card = TransferCard(
        name="subspace",
        title="Subspace projection",
        paper="",
        access=frozenset(),
        summary="Low-rank updates are projected onto leading subspaces of the target's weights.",
        takes={"text-layers", "image-layers"},
    )

    def serves(self, method: MethodCard) -> bool:
        return super().serves(method) and bool(method.zero_shot_at)

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        return method.attach(carry_projected(module, target), target, labels)


def leading_subspaces(weight: Tensor, share: float = SHARE) -> tuple[Tensor, Tensor]:
    """The first r left and right singular vectors of a weight, each ``[d, r]``, float64.

    r is the least number whose squared singular values are ``share`` of all.
    """
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    held = s.square().cumsum(0) / s.square().sum()
    rank = int((held < share).sum()) + 1
    return u[:, :rank], v[:rank].T


def carry_projected(module: Module, target: Backbone, share: float = SHARE) -> Module:
    """Low-rank updates of queries, keys and values: b becomes U Uᵀ b, and a becomes a V Vᵀ.

    With ``share`` 1 the module stays as it is.

    Raises:
        NotTransferable: the module has other tensors, or was made for towers of other sizes.
    """
    new = {}
    for name, kind in towers_of(module).items():
        weights, tensor = split(tower_weights(target, kind)), module[name]
        if name not in (f"{kind}_a", f"{kind}_b"):
            raise NotTransferable(f"'{name}' is no low-rank update")
        made = []
        for i, block in enumerate(tensor):
            for letter, factor in zip(PROJECTIONS, block, strict=True):
                weight = weights.get(f"transformer.resblocks.{i}.attn.{letter}.weight")
                if weight is None or len(weight) not in factor.shape:
                    raise NotTransferable(f"the target's {kind} tower has no weights for '{name}'")
                u, v = leading_subspaces(weight, share)
                exact = factor.double()
                made.append(u @ (u.T @ exact) if name.endswith("_b") else (exact @ v) @ v.T)
        new[name] = torch.stack(made).view_as(tensor).to(tensor)
    return Module(new, module.stored)
