"""The training loop that every trained method shares."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, Labels, Method, Module
from compatbench.method.optim import Recipe, build_optimizer, learning_rate

# A cap on steps leaves a recipe at least this many epochs, if it has so many.
LEAST_EPOCHS = 10


@dataclass(frozen=True)
class Batch:
    """One step's images, and where they come from.

    Attributes:
        features: image features under one training view, not normalised, ``[batch, e]``.
        targets: labels, ``[batch]``.
        backbone: the source.
        labels: class names and templates, for teachers.
        tokens: where ``image_input`` names something else than features, that, under the
            same view, ``[batch, ...]``.
        other_view: features of the same images under the next training view, ``[batch, e]``.
        rng: the fit's generator, for what a loss draws.
    """

    features: Tensor
    targets: Tensor
    backbone: Backbone
    labels: Labels
    tokens: Tensor | None = None
    other_view: Tensor | None = None
    rng: torch.Generator | None = None

    @property
    def inputs(self) -> Tensor:
        """What the method's classifier takes for the images."""
        return self.features if self.tokens is None else self.tokens


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
        return F.cross_entropy(classifier(batch.inputs), batch.targets)

    def epochs(self, data: FewShotData, steps: int) -> int:
        """How many epochs, of so many steps each, a fit takes where no suite caps it."""
        recipe: Recipe = self.config.recipe  # type: ignore[attr-defined]
        return recipe.epochs_for(data.shots)

    def rate_factor(self, name: str) -> float:
        """How many times the recipe's learning rate a tensor has; the warm-up is the same."""
        return 1.0

    def epoch_weights(self, epochs: int) -> Sequence[float] | None:
        """Weights with which the modules after each epoch are averaged; None keeps the last."""
        return None

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Runs the recipe from ``init`` and returns the module after the last step.

        Or the average of the modules after each epoch, where ``epoch_weights`` has weights.
        """
        recipe: Recipe = self.config.recipe  # type: ignore[attr-defined]
        module = self.init(backbone, data, rng)
        for tensor in module.trained.values():
            tensor.requires_grad_(True)
        optimizer = build_optimizer(recipe, self._parameter_groups(recipe, module))
        train = data.train
        # As in Dassl: a last, smaller batch is dropped unless it is the only one.
        per_epoch = max(len(train) // recipe.batch_size, 1)
        epochs = self.epochs(data, per_epoch)
        if (cap := self.config.max_steps) is not None:  # type: ignore[attr-defined]
            # A recipe of small batches would have one epoch, all warm-up: shorter ones keep
            # the shape of its schedule.
            per_epoch = min(per_epoch, math.ceil(cap / min(epochs, LEAST_EPOCHS)))
            epochs = min(epochs, cap // per_epoch)
        average = _Average(self.epoch_weights(epochs), module)
        for epoch in range(epochs):
            view, next_view = epoch % len(train.views), (epoch + 1) % len(train.views)
            features, others = train.views[view], train.views[next_view]
            order = torch.randperm(len(train), generator=rng).to(features.device)
            for step in range(per_epoch):
                chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(
                        group["recipe"], epoch, epochs, epoch * per_epoch + step, epochs * per_epoch
                    )
                batch = Batch(
                    features[chosen],
                    train.targets[chosen],
                    backbone,
                    data.labels,
                    train.inputs(chosen, view) if train.view_inputs is not None else None,
                    others[chosen],
                    rng,
                )
                optimizer.zero_grad()
                self.loss(self.attach(module, backbone, data.labels), batch).backward()
                optimizer.step()
            average.add(epoch)
        return average.module()

    def _parameter_groups(self, recipe: Recipe, module: Module) -> list[dict[str, Any]]:
        """The trained tensors, those of one learning rate together, with a recipe of that rate."""
        groups: dict[float, list[Tensor]] = {}
        for name, tensor in module.trained.items():
            groups.setdefault(self.rate_factor(name), []).append(tensor)
        return [
            {"params": tensors, "recipe": recipe.model_copy(update={"lr": factor * recipe.lr})}
            for factor, tensors in groups.items()
        ]


class _Average:
    """The weighted sum of a module's trained tensors over epochs, or the module itself."""

    def __init__(self, weights: Sequence[float] | None, module: Module) -> None:
        self._weights = weights
        self._module = module
        self._sums = {name: torch.zeros_like(t) for name, t in module.trained.items()}

    @torch.no_grad()
    def add(self, epoch: int) -> None:
        if self._weights is not None:
            for name, tensor in self._module.trained.items():
                self._sums[name] += self._weights[epoch] * tensor

    def module(self) -> Module:
        trained = self._module.trained if self._weights is None else self._sums
        return Module(trained, self._module.stored).detach()
