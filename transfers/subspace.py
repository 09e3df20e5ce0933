"""Subspace: low-rank updates act only where the target's own weights do."""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method, Module
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.weights import WeightTransfer, attention_weights, low_rank_towers, turn_updates


class Subspace(WeightTransfer):
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
    share = 0.9  # of the squared singular values of a weight, that its subspace holds

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        turns = {}
        for kind in low_rank_towers(module):
            weights = attention_weights(target, kind, module[f"{kind}_a"])
            bases = [leading_subspaces(weight, self.share) for weight in weights.flatten(0, 1)]
            onto = ([basis @ basis.T for basis in side] for side in zip(*bases, strict=True))
            out, into = (torch.stack(side).view(weights.shape) for side in onto)
            turns[kind] = into, out
        return turn_updates(module, turns)


def leading_subspaces(weight: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The first r left and right singular vectors of a weight, each ``[d, r]``, float64.

    r is the least number whose squared singular values are ``share`` of all.
    """
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    held = s.square().cumsum(0) / s.square().sum()
    rank = int((held < share).sum()) + 1
    return u[:, :rank], v[:rank].T
