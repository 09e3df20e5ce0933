"""Few-shot orthogonal alignment: low-rank updates turned as labelled images of the target say."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Method, MethodConfig, Module
from compatbench.method.trained import Batch, Recipe
from compatbench.method.transfer import TransferCard, TransferData

from ._shared.training import best_module, trainable
from ._shared.weights import WeightTransfer, low_rank_towers, turn_updates


class FewShotOrthogonal(WeightTransfer):
    """b a becomes Uᵀ b a U, with U trained by L_ce + β · mean ‖UᵀU − I‖_F.

    Kawamoto et al., *Cross-Model Transfer of Task Vectors via Few-Shot Orthogonal Alignment*,
    section 3. Every projection that is updated has a U of its own, which starts at I, and β = 1.
    The authors' code takes AdamW at 1e-5 with weight decay 0.1, batches of 128 and 100 epochs of
    1,000 images per class, ten views of each of 100. Here there are k images, of which so small a
    rate makes nothing in a suite's steps: the rate is the one of ``rates`` that classifies the
    validation images best, the smallest of equal ones, and without such images the first. There
    is no warm-up and no clipping of gradients.
    """

    card = TransferCard(
        name="few-shot-orthogonal",
        title="Few-shot orthogonal alignment",
        paper="arXiv:2505.12021",
        access={"labels"},
        summary="Low-rank updates are turned by matrices learned on k labelled images per class.",
        takes={"text-layers", "image-layers"},
    )

    class Config(MethodConfig):
        shots: PositiveInt
        beta: NonNegativeFloat = 1.0
        epochs: PositiveInt = 100
        rates: tuple[PositiveFloat, ...] = (1e-5, 1e-4, 1e-3)

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        rates = self.config.rates if len(data.labels.val) else self.config.rates[:1]
        modules = (self.turned(method, module, target, data, rate) for rate in rates)
        return best_module(modules, method, target, data.labels)

    @torch.enable_grad()
    def turned(
        self, method: Method, module: Module, target: Backbone, data: TransferData, rate: float
    ) -> Module:
        """The module with U as it is trained at a rate."""
        learner, config, shots = trainable(method), self.config, data.labels

        def turn(turns: Module) -> Module:
            return turn_updates(module, {kind: (u, u) for kind, u in turns.trained.items()})

        def loss(turns: Module, batch: Batch) -> Tensor:
            classify = learner.attach(turn(turns), target, shots.labels)
            apart = torch.cat([gaps(u).flatten() for u in turns.trained.values()])
            return (
                F.cross_entropy(classify(batch.inputs), batch.targets) + config.beta * apart.mean()
            )

        start = {}
        for kind in low_rank_towers(module):
            a = module[f"{kind}_a"]
            start[kind] = torch.eye(a.shape[-1]).to(a).repeat(*a.shape[:2], 1, 1)
        recipe = Recipe(
            optimizer="adamw", lr=rate, weight_decay=0.1, batch_size=128, epochs=config.epochs,
            schedule="cosine-step", warmup_epochs=0,
        )  # fmt: skip
        turns = learner.train(Module(start), loss, target, shots, data.generator(), recipe=recipe)
        return turn(turns)


def gaps(u: Tensor) -> Tensor:
    """‖UᵀU − I‖_F of matrices ``[..., d, d]``; where it is 0, so is its gradient."""
    return torch.linalg.matrix_norm(u.mT @ u - torch.eye(u.shape[-1]).to(u))
