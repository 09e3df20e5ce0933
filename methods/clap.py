"""CLAP: a linear probe whose class weights are held to their text features.

The class weights start at the text features and are trained by cross-entropy. A penalty pulls each
class back to its text feature, strongly where zero-shot classifies the shots well and weakly where
it does not.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compatbench.method import Backbone, CosineClassifier, FewShotData, Labels, MethodCard, Module
from compatbench.method.trained import Batch

from ._shared.texts import mean_texts
from .zs_lp import ZSLP, PrototypeClassifier


class CLAP(ZSLP):
    """Cross-entropy + (1/C) Σ_c λ_c ‖w_c − t_c‖², on ZS-LP's classifier.

    Silva-Rodríguez et al., *A Closer Look at the Few-Shot Adaptation of Large Vision-Language
    Models*, section 4. λ_c is the mean probability that zero-shot gives class c on its own
    shots, over all views. It stays fixed, as in the authors' released command. A class without
    shots has λ_c = 1, because only its text is known.
    """

    card = MethodCard(
        name="clap",
        title="CLAP",
        paper="arXiv:2312.12730",
        inserts="classifier",
        summary="linear probe held near zero-shot weights",
    )

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        module = super().init(backbone, data, rng)
        text = mean_texts(backbone, data.labels, self.config.templates)
        return Module(module.trained, {"multipliers": multipliers(text, backbone, data)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PrototypeClassifier:
        classifier = super().attach(module, backbone, labels)
        return ConstrainedClassifier(classifier.prototypes, classifier.scale, module["multipliers"])

    def loss(self, classifier: ConstrainedClassifier, batch: Batch) -> Tensor:
        text = mean_texts(batch.backbone, batch.labels, self.config.templates)
        distances = (classifier.prototypes - text).square().sum(-1)
        return super().loss(classifier, batch) + (classifier.multipliers * distances).mean()


class ConstrainedClassifier(PrototypeClassifier):
    """A classifier of ZS-LP that keeps the multipliers λ, ``[C]``, for the loss."""

    def __init__(self, prototypes: Tensor, scale: float | Tensor, multipliers: Tensor) -> None:
        super().__init__(prototypes, scale)
        self.multipliers = multipliers


@torch.no_grad()
def multipliers(text: Tensor, backbone: Backbone, data: FewShotData) -> Tensor:
    """Return λ ``[C]``: the mean zero-shot probability of each class on the views of its shots."""
    zero_shot = CosineClassifier(text, backbone.logit_scale)
    targets = data.train.targets
    views = data.train.views
    truth = targets.expand(len(views), -1)[..., None]
    probabilities = zero_shot(views).softmax(-1)
    of_truth = probabilities.gather(-1, truth)[..., 0].mean(0)
    counts = targets.bincount(minlength=len(data.labels))
    sums = torch.zeros(len(data.labels)).to(of_truth).index_add(0, targets, of_truth)
    return torch.where(counts > 0, sums / counts.clamp(min=1), 1.0)
