"""Orthogonal shift: an update without its part along the way from the source to the target."""

from __future__ import annotations

import torch

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method, MethodConfig, Module
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.weights import WeightTransfer, attention_weights, low_rank_towers


class OrthogonalShift(WeightTransfer):
    """Δ − β ⟨Δ, s⟩ s / ‖s‖², with s = θ_t − θ_s, for each weight.

    A baseline of merge-and-rebase, the authors' repository of Theseus; β = 1, by which nothing of
    an update is along what the target has changed itself. Towers must have weights of equal sizes.
    Of low-rank updates, queries, keys and values of a block are one weight, as in CLIP; what is
    taken away is added to b a as further factors, −β c s and I.
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
            a, b = module[f"{kind}_a"], module[f"{kind}_b"]
            old, new_weights = (attention_weights(m, kind, a) for m in (data.source, target))
            shift = (new_weights - old).to(a)
            share = (b @ a * shift).sum((1, 2, 3)) / shift.square().sum((1, 2, 3)).clamp_min(1e-12)
            along = self.config.beta * share[:, None, None, None] * shift
            eye = torch.eye(a.shape[-1]).to(a).expand_as(shift)
            new |= {f"{kind}_a": torch.cat([a, eye], 2), f"{kind}_b": torch.cat([b, -along], 3)}
        return Module(new, module.stored)
