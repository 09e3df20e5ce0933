"""ZS-LP: a linear probe of cosine logits, started at the text features.

The class weights are trained on the shots by cross-entropy, without any penalty. The module holds
the trained weights, which belong to the source's feature space.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from compatbench.method import (
    Backbone,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Recipe, TrainedMethod

from ._shared.texts import Templates, mean_texts


class PrototypeClassifier(CosineClassifier):
    """A cosine classifier that keeps its prototypes, ``[C, e]``, without normalisation."""

    def __init__(self, prototypes: Tensor, scale: float | Tensor) -> None:
        super().__init__(prototypes, scale)
        self.prototypes = prototypes


class ZSLP(TrainedMethod):
    """z_c = s · cos(f, w_c), with w learned and started at the text features t, not normalised.

    Silva-Rodríguez et al., *A Closer Look at the Few-Shot Adaptation of Large Vision-Language
    Models*, section 3.2.

    In detail: the authors draw batches from a pool of 20 augmented passes, as ``pool_views``
    does; by default an epoch is one of the suite's views. ``stores`` chooses the tensor that is
    carried to another backbone: the weights w, as published, or the residual w − t, which is
    then added to that backbone's own t. The classifier on the source is the same in both cases.
    """

    card = MethodCard(
        name="zs_lp",
        title="ZS-LP",
        paper="arXiv:2312.12730",
        inserts="classifier",
        summary="linear probe started at zero-shot weights",
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(lr=0.1, weight_decay=0, epochs=300, batch_size=256)
        stores: Literal["weights", "residual"] = "weights"
        templates: Templates = "first"

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        text = mean_texts(backbone, data.labels, self.config.templates)
        if self.config.stores == "weights":
            return Module(trained={"weights": text.clone()})
        return Module(trained={"residual": torch.zeros_like(text)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> PrototypeClassifier:
        name = self.config.stores
        require_shape(module, name, backbone.embed_dim, "text features of size")
        learned = require_shape(module, name, len(labels), "a number of classes of", dim=0)
        if name == "residual":
            learned = mean_texts(backbone, labels, self.config.templates) + learned
        return PrototypeClassifier(learned, backbone.logit_scale)
