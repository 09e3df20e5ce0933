"""The module where it is expected to help, and the target's zero-shot where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compatbench.backbone import Backbone, Labels
from compatbench.method import Classifier, CosineClassifier, Method, MethodCard, Module
from compatbench.method.predictions import predict
from compatbench.method.transfer import COPIED, Transfer, TransferCard, TransferData

from ._shared.survival import FourAnswers, Gain, describe_method, predict_gain
from .copied import Copied

BATCH = 64  # images that are classified together


class Gated(Transfer):
    """z = z_t(θ) if its expected gain over zero-shot is above 0, otherwise zero-shot itself.

    The gain is that of ``compatbench predict``, from the answers of both models, each with the
    module and zero-shot, for the task's training images without labels; for an upgrade that the
    estimator was fitted on, by one that was fitted without it.
    """

    card = TransferCard(
        name="gated",
        version=2,
        title="Gated",
        paper="",
        access={"unlabelled", "source weights"},
        summary="The module is copied if it is expected to help; otherwise zero-shot replaces it.",
        gates=COPIED,
    )
    way: type[Transfer] = Copied

    def serves(self, method: MethodCard) -> bool:
        return super().serves(method) and method.depth != "none" and self.way().serves(method)

    def attach(
        self, method: Method, module: Module, target: Backbone, labels: Labels, data: TransferData
    ) -> Classifier:
        way, images = self.way(), data.unlabelled
        classify = way.attach(method, module, target, labels, data)
        zero_shot = CosineClassifier(target.zero_shot(labels), target.logit_scale)
        wanted = self.image_input(method, target)
        at_once = len(images.target) if "stream" in method.card.needs else BATCH
        rows = torch.arange(len(images.target), device=images.target.device)
        new = torch.cat([classify(images.inputs[part]) for part in rows.split(at_once)])
        logits = (images.old.logits, images.old.zero_shot, new, zero_shot(images.target))
        four, names = FourAnswers(*map(predict, logits)), (data.source.name, target.name)
        kind = describe_method(method.card, way.card.name, data.source, target, labels)
        gain = predict_gain(four, len(labels), kind, *names)
        return GatedClassifier(
            gain, classify, lambda inputs: zero_shot(target.finish_images(inputs, wanted))
        )


@dataclass(frozen=True)
class GatedClassifier:
    """A classifier of two, chosen by the gain that is expected of the first."""

    expected: Gain
    module: Classifier
    zero_shot: Callable[[Tensor], Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        return (self.module if self.expected.value > 0 else self.zero_shot)(inputs)

    @property
    def note(self) -> str:
        """What was chosen, and what is expected of the module."""
        kept = self.expected.value > 0
        what = "keeps the module" if kept else "falls back to zero-shot"
        return f"The gate {what}: a gain of {self.expected} points is expected"
