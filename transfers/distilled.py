"""Distillation: the old model with its module teaches the module on the new one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, Labels
from compatbench.method import FeatureSet, FewShotData, Method, Module
from compatbench.method.trained import Batch
from compatbench.method.transfer import Transfer, TransferCard, TransferData, Unlabelled

from ._shared.training import go_on_training, trainable


class Distilled(Transfer):
    """The old module is trained towards its old answers for a tenth of the method's epochs.

    min_θ E_x ½ KL(q‖p) + ½ KL(p‖q), with p the answers on the target and q those of the old
    model with the old module, for the task's training images without labels. The loss is that of
    KDPL (arXiv:2407.03056), whose teacher is a larger zero-shot model; here the teacher is the
    older model.
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
    """Return ½ KL(q‖p) + ½ KL(p‖q) of the softmax of logits, the mean over images.

    Args:
        student: logits ``[batch, classes]``, whose softmax is p.
        teacher: logits ``[batch, classes]``, whose softmax is q.
    """
    log_p = student.log_softmax(-1)
    log_q = teacher.log_softmax(-1)
    # The sum of both divergences is Σ (q − p) (log q − log p).
    return ((log_q.exp() - log_p.exp()) * (log_q - log_p)).sum(-1).mean() / 2


def distil(
    method: Method,
    module: Module,
    target: Backbone,
    labels: Labels,
    images: Unlabelled,
    rng: torch.Generator,
) -> Module:
    """Train a copy of the module to minimise the ``divergence`` from the old answers.

    Raises:
        NotTransferable: the method's modules are not trained, or the module does not fit.
    """
    learner = trainable(method)
    features = images.target
    # The row of an image takes the place of its label, so that the loss finds its old answer.
    rows = torch.arange(len(features), device=features.device)
    inputs = None if method.image_input(target) == FEATURES else [images.inputs]
    image_set = FeatureSet(features, features[None], rows, inputs)
    empty = FeatureSet(features[:0], features[None, :0], rows[:0])
    shots = math.ceil(len(rows) / len(labels))
    data = FewShotData(labels, shots, empty, empty, image_set)

    def loss(new: Module, batch: Batch) -> Tensor:
        answers = images.old.logits[batch.targets]
        classify = learner.attach(new, target, labels)
        return divergence(classify(batch.inputs), answers)

    return go_on_training(learner, module, loss, target, data, rng, unlabelled=True)
