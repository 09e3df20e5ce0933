"""Warm start: the old module is trained further on labelled images of the target."""

from __future__ import annotations

import torch
from pydantic import PositiveInt
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import FewShotData, Method, MethodConfig, Module
from compatbench.method.trained import Batch
from compatbench.method.transfer import Transfer, TransferCard, TransferData

from ._shared.training import best_module, go_on_training, trainable

# The factors μ among which the validation images choose. No authors' values are known.
PULLS = (0.01, 0.1, 1.0)


class Warm(Transfer):
    """From θ₀, the old module, a tenth of the method's epochs minimise its loss on the target.

    With ``pull``, that is L(θ) + (μ/2) ‖θ − θ₀‖² (L2-SP, Li et al., arXiv:1802.01483, section
    3.2), and μ the one of 0.01, 0.1 and 1 that classifies the validation images best.
    """

    card = TransferCard(
        name="warm",
        title="Warm start",
        paper="",
        access={"labels"},
        summary="The module is trained further on k labelled images per class.",
        settings={"pull": {"pull": True}},
    )

    class Config(MethodConfig):
        shots: PositiveInt
        pull: bool = False

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        train = train_near if self.config.pull else train_further
        return train(method, module, target, data.labels, data.generator())


def train_further(
    method: Method,
    module: Module,
    target: Backbone,
    data: FewShotData,
    rng: torch.Generator,
    pull: float = 0.0,
) -> Module:
    """Train a copy of the module to minimise L(θ) + (μ/2) ‖θ − θ₀‖², with μ = ``pull``.

    Raises:
        NotTransferable: the method's modules are not trained, or the module does not fit.
    """
    learner = trainable(method)
    start = module.detach().trained

    def loss(new: Module, batch: Batch) -> Tensor:
        value = learner.loss(learner.attach(new, target, data.labels), batch)
        if pull == 0:
            return value
        distances = [(tensor - start[name]).square().sum() for name, tensor in new.trained.items()]
        return value + pull / 2 * torch.stack(distances).sum()

    return go_on_training(learner, module, loss, target, data, rng)


def train_near(
    method: Method, module: Module, target: Backbone, data: FewShotData, rng: torch.Generator
) -> Module:
    """Train with every pull, and return the module that classifies the validation images best.

    Of equal ones the weakest pull wins. Every candidate sees the same batches.
    """
    state = rng.get_state()

    def train(pull: float) -> Module:
        return train_further(method, module, target, data, rng.set_state(state), pull)

    return best_module(map(train, PULLS), method, target, data)
