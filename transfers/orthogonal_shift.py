"""Orthogonal shift: an update without its part along the difference of source and target."""

from __future__ import annotations

import torch

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method, MethodConfig, Module
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.weights import WeightTransfer, attention_weights, low_rank_towers


class OrthogonalShift(WeightTransfer):
    """Δ − β ⟨Δ, s⟩ s / ‖s‖², with s = θ_t − θ_s, for each weight.

    A baseline of merge-and-rebase, the repository of Theseus's authors. With β = 1 an update has
    no part along the target's own change. Towers must have weights of equal sizes. In low-rank
    updates, queries, keys and values of a block count as one weight, as in CLIP. The part that is
    subtracted is added to b a as further factors, −β c s and I.
    """

    card = TransferCard(
        name="orthogonal-shift",
        title="Orthogonal shift",
        paper="",
        access={"source weights"},
        summary="Low-rank updates lose their part along the difference of both models' weights.",
        takes={"text-layers", "image-layers"},
    )

    class Config(MethodConfig):
        beta: float = 1.0

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        new = dict(module.trained)
        for kind in low_rank_towers(module):
            a = module[f"{kind}_a"]
            b = module[f"{kind}_b"]
            source_weights = attention_weights(data.source, kind, a)
            target_weights = attention_weights(target, kind, a)
            shift = (target_weights - source_weights).to(a)
            # ⟨Δ, s⟩ and ‖s‖² of each block.
            products = (b @ a * shift).sum((1, 2, 3))
            squares = shift.square().sum((1, 2, 3)).clamp_min(1e-12)
            shares = products / squares
            along_shift = self.config.beta * shares[:, None, None, None] * shift
            identity = torch.eye(a.shape[-1]).to(a).expand_as(shift)
            new[f"{kind}_a"] = torch.cat([a, identity], 2)
            new[f"{kind}_b"] = torch.cat([b, -along_shift], 3)
        return Module(new, module.stored)
