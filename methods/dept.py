"""DePT: a linear head beside the prompts, so that the prompts learn what classes share.

The head, on rescaled features, learns what is special to the training classes and leaves the
common part to CoOp's prompts. At test time the two classifiers are averaged.
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

# Names of the head's tensors.
HEAD = ("image_gain", "image_shift", "text_gain", "text_shift", "head", "head_bias")


class DePT(CoOp):
    """CoOp, and a second classifier in a channel-wise transformed space.

    Zhang et al., *DePT: Decoupled Prompt Tuning*, section 3.3. Features are transformed as γ ⊙
    x + β, with separate γ and β for images and texts, and a linear head maps them, not
    normalised, to the classes. With p and q the logits of CoOp and of the head, and λ = 0.7,

        L = (1 − λ) CE(p(f), y) + λ CE(q over the f and the text features t_y, y)
        z = (1 − λ) p(f) + λ q(f)

    As in the authors' code, all but the prompts learn at 6.5 times the rate. The head has a row
    for every class, so the module serves no other classes.
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
        size = backbone.embed_dim
        # The last column is the bias.
        drawn = draw_linear((len(data.labels), size + 1), size, rng)
        gain = torch.ones(size)
        shift = torch.zeros(size)
        tensors = (gain, shift, gain, shift, drawn[:, :size], drawn[:, size])
        head = dict(zip(HEAD, tensors, strict=True))
        # ``detach`` gives every tensor its own memory.
        return Module(prompts | head).to(backbone.device).detach()

    def rate_factor(self, name: str) -> float:
        return self.config.head_rate if name in HEAD else 1.0

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> DecoupledClassifier:
        require_shape(module, "head", backbone.embed_dim, "features of size")
        require_shape(module, "head", len(labels), "a number of classes of", dim=0)
        texts = self.encode(module, backbone, labels)
        return DecoupledClassifier(texts, backbone.logit_scale, module, self.config.weight)

    def loss(self, classifier: DecoupledClassifier, batch: Batch) -> Tensor:
        images = batch.features
        targets = batch.targets
        weight = self.config.weight
        entropy = F.cross_entropy(classifier.classify(images), targets)
        text_logits = classifier.text_head(targets)
        image_logits = classifier.image_head(images)
        head_entropy = F.cross_entropy(torch.cat([text_logits, image_logits]), targets.repeat(2))
        return (1 - weight) * entropy + weight * head_entropy


class DecoupledClassifier(CosineClassifier):
    """The weighted sum of cosine logits and of the head's."""

    def __init__(self, texts: Tensor, scale: float, module: Module, weight: float) -> None:
        super().__init__(texts, scale)
        self._texts = texts
        self._module = module
        self._weight = weight

    def __call__(self, features: Tensor) -> Tensor:
        p = self.classify(features)
        q = self.image_head(features)
        return (1 - self._weight) * p + self._weight * q

    def image_head(self, features: Tensor) -> Tensor:
        """Return the head's logits q of image features, ``[batch, classes]``."""
        return self._head(self._module["image_gain"] * features + self._module["image_shift"])

    def text_head(self, targets: Tensor) -> Tensor:
        """Return the head's logits q of the classes' text features t_y, ``[batch, classes]``."""
        texts = self._texts[targets]
        return self._head(self._module["text_gain"] * texts + self._module["text_shift"])

    def _head(self, features: Tensor) -> Tensor:
        return F.linear(features, self._module["head"], self._module["head_bias"])
