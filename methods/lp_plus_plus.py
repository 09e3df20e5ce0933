"""LP++: a linear probe beside a text classifier with one learned weight per class.

Step sizes come from bounds that are computed on the data, so no learning rate has to be searched.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.validation import validation_accuracy

from ._shared.layers import draw_linear
from ._shared.texts import Templates, zero_shot


class LPPlusPlus(Method):
    """z = f̂ Wᵀ + b + a ⊙ (f̂ W_0ᵀ), with step sizes computed from the data.

    Huang et al., *LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP*, sections 3 and
    4. Over one augmented view F ``[N, e]`` of the N shots, normalised:

    * W starts at the class sums of F, b as a linear layer's, a at 250 times the mean cosine of
      the shots with their own class's text (first per class, then over classes).
    * W and b: full-batch gradient descent with momentum 0.9 at 4 N / λ_max(Fᵀ F).
    * a: a step at N / (4 max_c Σ_i ⟨f̂_i, t̂_c⟩²) after every tenth step. The authors' code,
      which made the published numbers, never clears this gradient, so each step follows the sum
      since the start; ``accumulate=False`` takes the current gradient alone.
    * Of 300 steps, the last one that is best on the few-shot validation set is kept; without
      validation images, the last one.
    """

    card = MethodCard(
        name="lp_plus_plus",
        title="LP++",
        paper="arXiv:2404.02285",
        inserts="classifier",
        summary="linear probe and text classifier with learned class weights",
    )

    class Config(Method.Config):
        templates: Templates = "first"
        steps: PositiveInt = 300
        momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
        text_scale: PositiveFloat = 250.0
        text_every: PositiveInt = 10
        accumulate: bool = True
        max_steps: PositiveInt | None = Field(
            None, description="set by the suite: most optimiser steps of a fit"
        )

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        train = data.train
        features = F.normalize(train.views[0], dim=-1)
        module = self.init(backbone, data, rng)
        for tensor in module.trained.values():
            tensor.requires_grad_()
        # The largest singular value of F, whose square is λ_max(Fᵀ F).
        norm = float(torch.linalg.matrix_norm(features, ord=2))
        rate = 4 * len(train) / norm**2
        optimizer = torch.optim.SGD(
            [module["weight"], module["bias"]], lr=rate, momentum=config.momentum
        )
        cosines = features @ zero_shot(backbone, data.labels, config.templates).T
        text_rate = len(train) / (4 * float(cosines.square().sum(0).max()))
        text_optimizer = torch.optim.SGD([module["text_weight"]], lr=text_rate)
        best_accuracy = torch.tensor(-1.0).to(features)
        best_module = module.detach()
        steps = min(config.steps, config.max_steps or config.steps)
        for step in range(1, steps + 1):
            classifier = self.attach(module, backbone, data.labels)
            optimizer.zero_grad()
            if not config.accumulate:
                text_optimizer.zero_grad()
            F.cross_entropy(classifier(train.views[0]), train.targets).backward()
            optimizer.step()
            if step % config.text_every == 0:
                text_optimizer.step()
            # The better module is chosen on the device, so that no step waits for it.
            classifier = self.attach(module, backbone, data.labels)
            accuracy = validation_accuracy(classifier, data)
            is_better = accuracy >= best_accuracy
            best_accuracy = torch.where(is_better, accuracy, best_accuracy)
            best_tensors = {}
            for name, tensor in module.trained.items():
                best_tensors[name] = torch.where(is_better, tensor.detach(), best_module[name])
            best_module = Module(best_tensors)
        return best_module.detach()

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Return a module of W, b and a before the first step."""
        classes = len(data.labels)
        features = F.normalize(data.train.views[0], dim=-1)
        owners = F.one_hot(data.train.targets, classes).to(features)
        text = zero_shot(backbone, data.labels, self.config.templates)
        own_cosines = features @ text.T * owners
        shots = owners.sum(0)
        class_means = own_cosines.sum(0) / shots.clamp(min=1)
        mean_cosine = class_means[shots > 0].mean()
        bias = draw_linear((classes,), backbone.embed_dim, rng)
        text_weight = self.config.text_scale * mean_cosine.expand(classes)
        return Module(
            trained={
                "weight": owners.T @ features,
                "bias": bias.to(features),
                "text_weight": text_weight.clone(),
            }
        )

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        weight = require_shape(module, "weight", backbone.embed_dim, "image features of size")
        bias = require_shape(module, "bias", len(labels), "a number of classes of")
        text = zero_shot(backbone, labels, self.config.templates)
        text_weight = module["text_weight"]

        def classify(features: Tensor) -> Tensor:
            features = F.normalize(features, dim=-1)
            return features @ weight.T + bias + text_weight * (features @ text.T)

        return classify
