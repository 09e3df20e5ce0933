"""Logit delta: the module's change of the old model's logits is added to the new model's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import FEATURES, Backbone, ImageInput, Labels
from compatbench.method import Classifier, Method, MethodConfig, Module
from compatbench.method.transfer import OldAnswers, Transfer, TransferCard, TransferData


class LogitDelta(Transfer):
    """z = z⁰_t + α · (z_s(θ) - z⁰_s): the module's change on the old model, added to the new one.

    Liu et al., *Tuning Language Models by Proxy* (section 2), with the new model's zero-shot as
    the base. Each z has its own model's logit scale; α = 1. The authors add log-probabilities.
    Logits differ from these by one number for each image, which changes neither softmax nor
    answers.
    """

    card = TransferCard(
        name="delta",
        title="Logit delta",
        paper="arXiv:2401.08565",
        access={"old model"},
        summary="What the module changes of the old model's logits is added to the new model's.",
    )

    class Config(MethodConfig):
        alpha: float = 1.0

    def image_input(self, method: Method, target: Backbone) -> ImageInput:
        """Return features for every method, because none is attached to the target."""
        return FEATURES

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        weights = target.logit_scale * target.zero_shot(labels)

        def classify(features: Tensor, old: OldAnswers) -> Tensor:
            zero_shot = F.normalize(features, dim=-1) @ weights.T
            return zero_shot + self.config.alpha * (old.logits - old.zero_shot)

        return classify  # type: ignore[return-value]
