"""The training loop that every trained method shares."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FeatureSet, FewShotData, Method, Module
from compatbench.method.batch import Batch, draw_batch, pool_views
from compatbench.method.mistakes import check_logits, check_loss, check_module, check_trainable

# A cap on steps leaves a recipe at least this many epochs, if it has this many.
LEAST_EPOCHS = 10
OnStep = Callable[[int, int], object]
_ON_STEP: ContextVar[OnStep] = ContextVar("on_step", default=lambda done, steps: None)


class Recipe(BaseModel):
    """The optimisation of a trained method; the defaults are CoOp's (arXiv:2109.01134).

    Attributes:
        epochs: one number, or a number by the fewest shots it is for: ``{1: 50, 8: 200}`` means
            50 epochs for 1 to 7 shots and 200 for 8 and more.
        drop_last: True to drop a last, smaller batch, unless it is the only one.
        pool_views: True to draw batches from all training views at once, not from one.
        warmup_epochs: epochs of ``cosine-epoch`` at the constant rate ``warmup_lr``.
        schedule: see ``learning_rate``.
        final_lr: the rate at the end of ``cosine-step``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PositiveFloat = 2e-3
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 5e-4
    epochs: PositiveInt | dict[PositiveInt, PositiveInt] = {1: 50, 2: 100, 8: 200}
    batch_size: PositiveInt = 32
    drop_last: bool = True
    pool_views: bool = False
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    warmup_lr: PositiveFloat = 1e-5
    schedule: Literal["cosine-epoch", "cosine-step", "constant"] = "cosine-epoch"
    final_lr: NonNegativeFloat = 0.0

    def count_epochs(self, shots: int) -> int:
        """Return the number of epochs for this many shots per class."""
        if isinstance(self.epochs, int):
            return self.epochs
        starts = [start for start in self.epochs if start <= shots]
        start = max(starts, default=min(self.epochs))
        return self.epochs[start]


@contextmanager
def watch_steps(on_step: OnStep) -> Iterator[None]:
    """Call a function with the steps done, and all steps, after each step of a fit in the block."""
    token = _ON_STEP.set(on_step)
    try:
        yield
    finally:
        _ON_STEP.reset(token)


def learning_rate(recipe: Recipe, epoch: int, epochs: int, step: int = 0, steps: int = 1) -> float:
    """Return the learning rate at a step (of ``steps`` in all) in an epoch (of ``epochs``).

    ``cosine-epoch`` is Dassl's schedule as CoOp uses it: a constant warm-up, then
    a cosine over all epochs that starts one epoch late, so that it never reaches
    zero: lr(j) = lr/2 · (1 + cos(π (j − warmup) / epochs)).
    """
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "cosine-step":
        fall = recipe.lr - recipe.final_lr
        return recipe.final_lr + fall * 0.5 * (1 + math.cos(math.pi * step / steps))
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr
    phase = (epoch - recipe.warmup_epochs) / epochs
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * phase))


class TrainedMethod(Method):
    """A method whose module is found by gradient descent.

    A subclass defines ``init`` and ``attach``, and ``loss`` if it is not plain
    cross-entropy. The forward pass of training is ``attach`` itself, so that the
    fitted classifier and the one attached to the source are the same by construction.
    """

    class Config(Method.Config):
        """The settings of a trained method: the recipe, and a suite's cap on steps."""

        recipe: Recipe = Recipe()
        max_steps: PositiveInt | None = Field(
            default=None, description="set by the suite: most optimiser steps of a fit"
        )

    # A subclass annotates it with its own ``Config``; strict type checkers accept only Any here.
    config: Any

    @property
    def trained_towers(self) -> tuple[Literal["text", "image"], ...]:
        """Return the towers of which every weight is trained, for estimates of memory."""
        return ()

    @abstractmethod
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Return the module before the first step."""

    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        """Return the loss of a batch, for the classifier that the method's ``attach`` returned."""
        logits = classifier(batch.inputs)
        check_logits(logits, len(batch.targets), len(batch.labels), classifier, self.attach)
        return F.cross_entropy(logits, batch.targets)

    def epochs(self, shots: int, per_epoch: int) -> int:
        """Return the epochs of a fit with ``per_epoch`` steps each, without a suite's cap."""
        return self.config.recipe.count_epochs(shots)

    def plan_steps(
        self, shots: int, images: int, recipe: Recipe | None = None, share: float = 1.0
    ) -> tuple[int, int]:
        """Return the epochs of a fit, or of a stage of one, and the steps in each.

        Args:
            shots: shots per class.
            images: training images.
            recipe: the recipe of the stage; by default the settings' own.
            share: the stage's share of the steps that a suite allows.
        """
        stage = recipe or self.config.recipe
        batches = images / stage.batch_size
        per_epoch = max(int(batches), 1) if stage.drop_last else math.ceil(batches)
        epochs = recipe.count_epochs(shots) if recipe else self.epochs(shots, per_epoch)
        if self.config.max_steps is not None:
            cap = max(int(share * self.config.max_steps), 1)
            # With small batches the cap could end within the first epoch, which is all warm-up.
            # Shorter epochs keep the shape of the schedule.
            per_epoch = min(per_epoch, math.ceil(cap / min(epochs, LEAST_EPOCHS)))
            epochs = min(epochs, cap // per_epoch)
        return epochs, per_epoch

    def count_epochs(self, shots: int, images: int) -> int:
        """Return the epochs of a fit on this many images."""
        epochs, _ = self.plan_steps(shots, images)
        return epochs

    def rate_factor(self, name: str) -> float:
        """Return the factor on the recipe's learning rate for a tensor, except in the warm-up."""
        return 1.0

    def epoch_weights(self, epochs: int) -> Sequence[float] | None:
        """Return the weights for averaging the modules after each epoch; None keeps the last."""
        return None

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        """Return the result of a fit, from the module after the last step."""
        return module

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """Return the module after the last step, or the weighted sum of those after each epoch."""

        def loss(module: Module, batch: Batch) -> Tensor:
            return self.loss(self.attach(module, backbone, data.labels), batch)

        module = self.init(backbone, data, rng)
        check_module(module, self.init)
        module = self.train(module, loss, backbone, data, rng)
        return self.finish(module, backbone, data)

    def train(
        self,
        module: Module,
        loss: Callable[[Module, Batch], Tensor],
        backbone: Backbone,
        data: FewShotData,
        rng: torch.Generator,
        *,
        recipe: Recipe | None = None,
        epochs: int | None = None,
        share: float = 1.0,
        unlabelled: bool = False,
    ) -> Module:
        """Run a fit, or a stage of one: return a module whose trained tensors minimise a loss.

        Steps, schedule and caps are those of ``plan_steps``.

        Args:
            module: the module to start from; its trained tensors are changed in place.
            loss: returns the loss of the module on a batch.
            backbone: the source.
            data: the images.
            rng: the only source of randomness.
            recipe: the recipe of this stage; by default the settings' own.
            epochs: the epochs of the stage, if they are fewer than the recipe's.
            share: the stage's share of the steps that a suite allows for the fit; the shares of
                all stages add up to 1.
            unlabelled: True to draw batches from ``data.unlabelled``, not from the few-shot images.
        """
        stage = recipe or self.config.recipe
        part = "unlabelled" if unlabelled else "train"
        planned, per_epoch = self.plan_steps(data.shots, len(getattr(data, part)), recipe, share)
        epochs = planned if epochs is None else min(epochs, planned)
        steps = epochs * per_epoch
        trained = module.trained
        check_trainable(trained, backbone.device, self.init, self.fit)
        device = next(iter(trained.values())).device
        rates = {name: self.rate_factor(name) * stage.lr for name in trained}
        optimizer = _build_optimizer(trained, stage, rates)
        images = _select_images(data, part, stage)
        teacher_images = None
        if data.teacher is not None:
            teacher_images = _select_images(data.teacher.data, part, stage)
        weights = self.epoch_weights(epochs)
        sums = {}
        if weights is not None:
            sums = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
        size = stage.batch_size
        on_step = _ON_STEP.get()
        for epoch in range(epochs):
            order = torch.randperm(len(images), generator=rng)
            order_on_device = order.to(device, non_blocking=True)
            drawn = order[: per_epoch * size]
            for step in range(per_epoch):
                steps_taken = epoch * per_epoch + step
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(group["recipe"], epoch, epochs, steps_taken, steps)
                place = slice(step * size, (step + 1) * size)
                following = drawn[place.stop : place.stop + size]
                rows = (order[place], order_on_device[place], following)
                teacher_batch = None
                if data.teacher is not None and teacher_images is not None:
                    model = data.teacher.backbone
                    teacher_batch = draw_batch(
                        model, teacher_images, data.labels, rows, epoch, rng, None
                    )
                batch = draw_batch(backbone, images, data.labels, rows, epoch, rng, teacher_batch)
                optimizer.zero_grad()
                value = loss(module, batch)
                check_loss(value, trained, loss, self.loss, self.attach)
                value.backward()
                optimizer.step()
                on_step(steps_taken + 1, steps)
            if weights is not None:
                with torch.no_grad():
                    for name, tensor in trained.items():
                        sums[name] += weights[epoch] * tensor
        result = trained if weights is None else sums
        return Module(result, module.stored).detach()


def _select_images(data: FewShotData, part: str, recipe: Recipe) -> FeatureSet:
    """Return the images that batches are drawn from; the recipe may pool their views."""
    images: FeatureSet = getattr(data, part)
    return pool_views(images) if recipe.pool_views else images


def _build_optimizer(
    trained: Mapping[str, Tensor], recipe: Recipe, rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """Return the recipe's optimiser, with a group of tensors for each learning rate.

    The training loop sets the rates before every step. Weight decay is coupled (L2) for SGD and
    Adam, as in Dassl, and decoupled for AdamW.
    """
    by_rate: dict[float, list[Tensor]] = {}
    for name, tensor in trained.items():
        by_rate.setdefault(rates[name], []).append(tensor.requires_grad_(True))
    groups = []
    for rate, tensors in by_rate.items():
        groups.append({"params": tensors, "recipe": recipe.model_copy(update={"lr": rate})})
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    # Update all tensors of a group in one call. On CUDA that is the default.
    on_cpu = all(tensor.device.type == "cpu" for tensor in trained.values())
    settings["fused"] = True if on_cpu else None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **settings)
    cls = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return cls(groups, betas=recipe.betas, eps=recipe.eps, **settings)
