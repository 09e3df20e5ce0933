"""DePT: a linear head beside the prompts, so that these keep what classes have in common.

A linear head on rescaled features is trained beside CoOp's prompts, and takes up what is
special to the training classes. The prompts are left with what classes share; at test time both
classifiers are averaged.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
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
from compatbench.method.trained import Batch, Recipe

from ._shared.layers import draw_linear
from .coop import CoOp

HEAD = ("image_gain", "image_shift", "text_gain", "text_shift", "head", "head_bias")


class DePT(CoOp):
    """CoOp, and a classifier in a channel-wise transformed space of its own.

    Zhang et al., *DePT: Decoupled Prompt Tuning*, section 3.3: features are transformed as
    γ ⊙ x + β, with γ and β of their own for images and texts, and a linear head maps them to
    the classes. Features are not normalised for it. With p and q the logits of CoOp and of the
    head, and λ = 0.7,

        L = (1 − λ) CE(p(f), y) + λ CE(q over the f and the text features t_y, y)
        z = (1 − λ) p(f) + λ q(f)

    Recipe, as in the authors' code: SGD at 3.5e-3 and 6.5 times that for all but the prompts,
    batch 4, 10 epochs. The head has a row for every class, so other classes are refused.
    """

    card = MethodCard(
        name="dept",
        title="DePT (CoOp)",
        paper="arXiv:2309.07439",
        inserts=("text-input", "classifier"),
        summary="a linear head beside the prompts",
    )

    class Config(CoOp.Config):
        recipe: Recipe = Recipe(lr=3.5e-3, batch_size=4, epochs=10)
        weight: Annotated[float, Field(ge=0, le=1)] = 0.7
        head_rate: PositiveFloat = 6.5

    config: Config

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        prompts = super().init(backbone, data, rng).trained
        size, classes = backbone.embed_dim, len(data.labels)
        head = draw_linear((classes, size + 1), size, rng)
        ones, zeros = torch.ones(size), torch.zeros(size)
        tensors = (ones, zeros, ones, zeros, head[:, :size], head[:, size])
        feature_head = dict(zip(HEAD, tensors, strict=True))
        return Module(prompts | feature_head).to(backbone.device).detach()

    def rate_factor(self, name: str) -> float:
        return self.config.head_rate if name in HEAD else 1.0

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> DecoupledClassifier:
        require_shape(module, "head", backbone.embed_dim, "features of size")
        require_shape(module, "head", len(labels), "a number of classes of", dim=0)
        return DecoupledClassifier(
            self.encode(module, backbone, labels), backbone.logit_scale, module, self.config.weight
        )

    def loss(self, classifier: DecoupledClassifier, batch: Batch) -> Tensor:
        images, targets, weight = batch.features, batch.targets, self.config.weight
        entropy = F.cross_entropy(classifier.classify(images), targets)
        texts = classifier.of_texts(targets)
        logits = torch.cat([texts, classifier.of_images(images)])
        decoupled = F.cross_entropy(logits, targets.repeat(2))
        return (1 - weight) * entropy + weight * decoupled


class DecoupledClassifier(CosineClassifier):
    """The weighted sum of cosine logits and of the head's."""

    def __init__(self, texts: Tensor, scale: float, module: Module, weight: float) -> None:
        super().__init__(texts, scale)
        self._texts = texts
        self._module = module
        self._weight = weight

    def __call__(self, features: Tensor) -> Tensor:
        similarities = self.classify(features)  # p
        return (1 - self._weight) * similarities + self._weight * self.of_images(features)

    def of_images(self, features: Tensor) -> Tensor:
        """q of images, ``[batch, classes]``."""
        return self._head(self._module["image_gain"] * features + self._module["image_shift"])

    def of_texts(self, chosen: Tensor) -> Tensor:
        """q of the text features of some classes, ``[batch, classes]``."""
        texts = self._texts[chosen]
        return self._head(self._module["text_gain"] * texts + self._module["text_shift"])

    def _head(self, features: Tensor) -> Tensor:
        return F.linear(features, self._module["head"], self._module["head_bias"])
