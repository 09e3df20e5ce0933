"""The training loop that every trained method shares."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, Labels, Method, Module
from compatbench.method.optim import Recipe, build_optimizer, learning_rate


@dataclass(frozen=True)
class Batch:
    """One step's images, and where they come from.

    Attributes:
        features: image features under one training view, not normalised, ``[batch, e]``.
        targets: labels, ``[batch]``.
        backbone: the source.
        labels: class names and templates, for teachers.
    """

    features: Tensor
    targets: Tensor
    backbone: Backbone
    labels: Labels


class TrainedMethod(Method):
    """A method whose module is found by gradient descent.

    A subclass gives ``init`` and ``attach``, and ``loss`` where it is not plain
    cross-entropy. The forward pass of training is ``attach`` itself, so that the
    fitted classifier and the one attached to the source are the same by construction.
    """

    class Config(Method.Config):
        """The recipe, and the cap on steps that a suite may set."""

        recipe: Recipe = Recipe()
        max_steps: PositiveInt | None = Field(
            None, description="set by the suite: most optimiser steps of a fit"
        )

    @abstractmethod
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """The module before the first step."""

    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        """The loss of a batch; cross-entropy unless a method says otherwise.

        ``classifier`` is what the method's own ``attach`` returned.
        """
        return F.cross_entropy(classifier(batch.features), batch.targets)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Runs the recipe from ``init`` and returns the module after the last step."""
        recipe: Recipe = self.config.recipe  # type: ignore[attr-defined]
        module = self.init(backbone, data, rng)
        for tensor in module.trained.values():
            tensor.requires_grad_(True)
        optimizer = build_optimizer(recipe, module.trained.values())
        train = data.train
        # As in Dassl: a last, smaller batch is dropped unless it is the only one.
        per_epoch = max(len(train) // recipe.batch_size, 1)
        epochs = recipe.epochs_for(data.shots)
        if (cap := self.config.max_steps) is not None:  # type: ignore[attr-defined]
            per_epoch = min(per_epoch, cap)
            epochs = min(epochs, cap // per_epoch)
        for epoch in range(epochs):
            features = train.views[epoch % len(train.views)]
            order = torch.randperm(len(train), generator=rng).to(features.device)
            for step in range(per_epoch):
                chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                rate = learning_rate(
                    recipe, epoch, epochs, epoch * per_epoch + step, epochs * per_epoch
                )
                for group in optimizer.param_groups:
                    group["lr"] = rate
                batch = Batch(features[chosen], train.targets[chosen], backbone, data.labels)
                optimizer.zero_grad()
                self.loss(self.attach(module, backbone, data.labels), batch).backward()
                optimizer.step()
        return module.detach()
