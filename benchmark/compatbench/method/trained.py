"""The training loop that every trained method shares."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
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
        backbone, labels: the source, and class names and templates, for teachers.
        tokens: where ``image_input`` names something else than features, that, ``[batch, ...]``.
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

    config: Config

    @abstractmethod
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """The module before the first step."""

    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        """The loss of a batch, of the classifier that the method's own ``attach`` returned."""
        return F.cross_entropy(classifier(batch.inputs), batch.targets)

    def epochs(self, shots: int, per_epoch: int) -> int:
        """Epochs of a fit, with so many steps in each, where no suite caps its steps."""
        return self.config.recipe.epochs_for(shots)

    def plan_steps(self, shots: int, images: int) -> tuple[int, int]:
        """Epochs of a fit and steps in each, for shots per class and training images."""
        # As in Dassl: a last, smaller batch is dropped unless it is the only one.
        per_epoch = max(images // self.config.recipe.batch_size, 1)
        epochs = self.epochs(shots, per_epoch)
        if (cap := self.config.max_steps) is not None:
            # A recipe of small batches would have one epoch, all warm-up: shorter ones keep
            # the shape of its schedule.
            per_epoch = min(per_epoch, math.ceil(cap / min(epochs, LEAST_EPOCHS)))
            epochs = min(epochs, cap // per_epoch)
        return epochs, per_epoch

    def count_steps(self, shots: int, images: int) -> int:
        """Optimiser steps of a fit, for shots per class and training images."""
        return math.prod(self.plan_steps(shots, images))

    def rate_factor(self, name: str) -> float:
        """How many times the recipe's learning rate a tensor has; the warm-up is the same."""
        return 1.0

    def epoch_weights(self, epochs: int) -> Sequence[float] | None:
        """Weights with which the modules after each epoch are averaged; None keeps the last."""
        return None

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Runs the recipe from ``init``; the module after the last step, or that of averages."""
        module, images, labels = self.init(backbone, data, rng), data.train, data.labels
        steps = self.plan_steps(data.shots, len(images))

        def loss(epoch: int, rows: Tensor) -> Tensor:
            view, next_view = (i % len(images.views) for i in (epoch, epoch + 1))
            features, other = images.views[view][rows], images.views[next_view][rows]
            tokens = None if images.view_inputs is None else images.inputs(rows, view)
            batch = Batch(features, images.targets[rows], backbone, labels, tokens, other, rng)
            return self.loss(self.attach(module, backbone, labels), batch)

        recipe, weights = self.config.recipe, self.epoch_weights(steps[0])
        return train(module, loss, recipe, steps, len(images), rng, self.rate_factor, weights)


def train(
    module: Module,
    loss: Callable[[int, Tensor], Tensor],
    recipe: Recipe,
    steps: tuple[int, int],
    images: int,
    rng: torch.Generator,
    rate_factor: Callable[[str], float] = lambda name: 1.0,
    weights: Sequence[float] | None = None,
) -> Module:
    """Moves a module's trained tensors by a recipe; a method of several stages calls it for each.

    Args:
        loss: of an epoch, and of the rows of a batch's images, ``[batch]``; it sees the tensors
            of ``module`` as they are at that step.
        steps: epochs, and steps in each.
        images: how many there are to draw batches from, in a new order each epoch.
        rate_factor: how many times the recipe's learning rate a tensor has, by its name.
        weights: of the modules after each epoch, for their weighted sum; None keeps the last.
    """
    trained, (epochs, per_epoch) = module.trained, steps
    groups: dict[float, list[Tensor]] = {}
    for name, tensor in trained.items():
        groups.setdefault(rate_factor(name), []).append(tensor.requires_grad_(True))
    recipes = {factor: recipe.model_copy(update={"lr": factor * recipe.lr}) for factor in groups}
    optimizer = build_optimizer(
        recipe, [{"params": groups[factor], "recipe": recipes[factor]} for factor in groups]
    )
    device = next(iter(trained.values())).device
    sums = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
    for epoch in range(epochs):
        order = torch.randperm(images, generator=rng).to(device)
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            for group in optimizer.param_groups:
                where = (epoch, epochs, step, epochs * per_epoch)
                group["lr"] = learning_rate(group["recipe"], *where)
            start = step % per_epoch * recipe.batch_size
            optimizer.zero_grad()
            loss(epoch, order[start : start + recipe.batch_size]).backward()
            optimizer.step()
        if weights is not None:
            with torch.no_grad():
                for name, tensor in trained.items():
                    sums[name] += weights[epoch] * tensor
    return Module(trained if weights is None else sums, module.stored).detach()
