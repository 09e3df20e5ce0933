"""Distillation: the old model with its module teaches the module on the new one."""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, Labels
from compatbench.method import FeatureSet, FewShotData, Method, Module
from compatbench.method.trained import Batch
from compatbench.method.transfer import Transfer, TransferCard, TransferData, Unlabelled

from ._shared.training import go_on_training, trainable


class Distilled(Transfer):
    """From the old module on, a tenth of the method's epochs bring its answers near the old ones.

    min_θ E_x ½ KL(q‖p) + ½ KL(p‖q), with p the answers on the target and q those of the old
    model with the old module, for the task's training images without labels. The loss is that of
    KDPL (arXiv:2407.03056), whose teacher is a larger zero-shot model; the roles are turned here.
    """

    card = TransferCard(
        name="distilled",
        title="Distilled",
        paper="arXiv:2407.03056",
        access={"unlabelled"},
        summary="The old model with its module teaches the module on unlabelled images.",
    )

    def carry(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Module:
        return distil(method, module, target, labels, data.unlabelled, data.generator())


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """½ KL(q‖p) + ½ KL(p‖q) of the softmax of logits ``[batch, classes]``, mean over images."""
    p, q = student.log_softmax(-1), teacher.log_softmax(-1)
    return ((q.exp() - p.exp()) * (q - p)).sum(-1).mean() / 2


def distil(
    method: Method,
    module: Module,
    target: Backbone,
    labels: Labels,
    images: Unlabelled,
    rng: torch.Generator,
) -> Module:
    """The module that minimises ``divergence`` from the old answers, from the old one on."""
    learner, features = trainable(method), images.target
    # What stands for a label is the image's row, by which its answer is found.
    rows = torch.arange(len(features), device=features.device)
    inputs = None if method.image_input(target) == FEATURES else [images.inputs]
    seen = FeatureSet(features, features[None], rows, inputs)
    none = FeatureSet(features[:0], features[None, :0], rows[:0])
    data = FewShotData(labels, -(-len(rows) // len(labels)), none, none, seen)

    def loss(new: Module, batch: Batch) -> Tensor:
        answers = images.old.logits[batch.targets]
        return divergence(learner.attach(new, target, labels)(batch.inputs), answers)

    return go_on_training(learner, module, loss, target, data, rng, unlabelled=True)
