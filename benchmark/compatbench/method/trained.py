"""The training loop that every trained method shares."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FeatureSet, FewShotData, Method, Module
from compatbench.method.batch import Batch, draw_batch, pool_views
from compatbench.method.mistakes import check_logits, check_loss, check_module, check_trainable

# A cap on steps leaves a recipe at least this many epochs, if it has so many.
LEAST_EPOCHS = 10


class Recipe(BaseModel):
    """How a trained method is optimised; the defaults are CoOp's (arXiv:2109.01134).

    Attributes:
        epochs: one number, or a number from so many shots on: ``{1: 50, 8: 200}`` means
            50 epochs for 1 to 7 shots and 200 for 8 and more.
        drop_last: whether a last, smaller batch is dropped, unless it is the only one.
        pool_views: batches are drawn from all training views at once, not from one.
        warmup_epochs: of ``cosine-epoch``, at the constant rate ``warmup_lr``.
        schedule: see ``learning_rate``.
        final_lr: what ``cosine-step`` falls to.
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
        """The epochs at so many shots per class."""
        if isinstance(self.epochs, int):
            return self.epochs
        starts = [start for start in self.epochs if start <= shots]
        return self.epochs[max(starts, default=min(self.epochs))]


def learning_rate(recipe: Recipe, epoch: int, epochs: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate at a step (of ``steps`` in all) in an epoch (of ``epochs``).

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

    A subclass gives ``init`` and ``attach``, and ``loss`` where it is not plain
    cross-entropy. The forward pass of training is ``attach`` itself, so that the
    fitted classifier and the one attached to the source are the same by construction.
    """

    class Config(Method.Config):
        """The recipe, and the cap on steps that a suite may set."""

        recipe: Recipe = Recipe()
        max_steps: PositiveInt | None = Field(
            default=None, description="set by the suite: most optimiser steps of a fit"
        )

    config: Any  # a subclass names its own ``Config``: no other type lets a strict checker pass

    @property
    def trained_towers(self) -> tuple[Literal["text", "image"], ...]:
        """The towers of which every weight is trained; for estimates of memory."""
        return ()

    @abstractmethod
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """The module before the first step."""

    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        """The loss of a batch, of the classifier that the method's own ``attach`` returned."""
        logits = classifier(batch.inputs)
        check_logits(logits, len(batch.targets), len(batch.labels), classifier, self.attach)
        return F.cross_entropy(logits, batch.targets)

    def epochs(self, shots: int, per_epoch: int) -> int:
        """Epochs of a fit, with so many steps in each, where no suite caps its steps."""
        return self.config.recipe.count_epochs(shots)

    def plan_steps(
        self, shots: int, images: int, recipe: Recipe | None = None, share: float = 1.0
    ) -> tuple[int, int]:
        """Epochs of a fit and steps in each, for shots per class and training images.

        Of a stage, with its ``recipe`` and its ``share`` of the steps that a suite allows.
        """
        stage = recipe or self.config.recipe
        per_epoch = images / stage.batch_size
        per_epoch = max(int(per_epoch), 1) if stage.drop_last else math.ceil(per_epoch)
        epochs = recipe.count_epochs(shots) if recipe else self.epochs(shots, per_epoch)
        if self.config.max_steps is not None:
            cap = max(int(share * self.config.max_steps), 1)
            # A recipe of small batches would have one epoch, all warm-up: shorter ones keep
            # the shape of its schedule.
            per_epoch = min(per_epoch, math.ceil(cap / min(epochs, LEAST_EPOCHS)))
            epochs = min(epochs, cap // per_epoch)
        return epochs, per_epoch

    def count_epochs(self, shots: int, images: int) -> int:
        """Epochs of a fit on so many images."""
        return self.plan_steps(shots, images)[0]

    def rate_factor(self, name: str) -> float:
        """How many times the recipe's learning rate a tensor has; the warm-up is the same."""
        return 1.0

    def epoch_weights(self, epochs: int) -> Sequence[float] | None:
        """Weights with which the modules after each epoch are averaged; None keeps the last."""
        return None

    def finish(self, module: Module, backbone: Backbone, data: FewShotData) -> Module:
        """What a fit returns, of the module after the last step."""
        return module

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        """The module after the last step, or the weighted sum of those after each epoch."""

        def loss(module: Module, batch: Batch) -> Tensor:
            return self.loss(self.attach(module, backbone, data.labels), batch)

        check_module(module := self.init(backbone, data, rng), self.init)
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
        """A fit, or a stage of one: the module whose trained tensors minimise a loss.

        Steps, schedule and caps are those of ``plan_steps``.

        Args:
            module: where it starts; its trained tensors are changed.
            loss: of the module and a batch.
            recipe: of this stage; by default the settings' own.
            epochs: where the stage has fewer than the recipe.
            share: of the steps that a suite allows for the fit; those of all stages add up to 1.
            unlabelled: batches are of ``data.unlabelled``, not of the few-shot images.
        """
        used = recipe or self.config.recipe
        part = "unlabelled" if unlabelled else "train"
        shown = len(getattr(data, part))
        most, per_epoch = self.plan_steps(data.shots, shown, recipe, share)
        epochs = most if epochs is None else min(epochs, most)
        steps = epochs * per_epoch
        trained = module.trained
        check_trainable(trained, backbone.device, self.init, self.fit)
        device = next(iter(trained.values())).device
        rates = {name: self.rate_factor(name) * used.lr for name in trained}
        optimizer = _build_optimizer(trained, used, rates)
        images = _select_images(data, part, used)
        seen = [(backbone, images)]
        if data.teacher is not None:
            seen.append((data.teacher.backbone, _select_images(data.teacher.data, part, used)))
        weights = self.epoch_weights(epochs)
        averaged = trained if weights is not None else {}
        sums = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
        size = used.batch_size
        for epoch in range(epochs):
            order = torch.randperm(len(images), generator=rng)
            order_on_device = order.to(device, non_blocking=True)
            drawn = order[: per_epoch * size]
            for step in range(per_epoch):
                for group in optimizer.param_groups:
                    taken = epoch * per_epoch + step
                    group["lr"] = learning_rate(group["recipe"], epoch, epochs, taken, steps)
                here = slice(step * size, (step + 1) * size)
                following = drawn[here.stop : here.stop + size]
                rows = order[here], order_on_device[here], following
                batch: Batch | None = None
                for model, views in reversed(seen):  # the teacher's is in the method's own
                    batch = draw_batch(model, views, data.labels, rows, epoch, rng, batch)
                assert batch is not None
                optimizer.zero_grad()
                value = loss(module, batch)
                check_loss(value, trained, loss, self.loss, self.attach)
                value.backward()
                optimizer.step()
            if weights is not None:
                with torch.no_grad():
                    for name, tensor in trained.items():
                        sums[name] += weights[epoch] * tensor
        return Module(trained if weights is None else sums, module.stored).detach()


def _select_images(data: FewShotData, part: str, recipe: Recipe) -> FeatureSet:
    """Return the images that batches are drawn from; the recipe may pool their views."""
    images: FeatureSet = getattr(data, part)
    return pool_views(images) if recipe.pool_views else images


def _build_optimizer(
    trained: Mapping[str, Tensor], recipe: Recipe, rates: Mapping[str, float]
) -> torch.optim.Optimizer:
    """The recipe's optimiser of tensors, which have rates of their own; set before every step.

    Weight decay is coupled (L2) for SGD and Adam, as Dassl does, and decoupled for AdamW.
    """
    tensors: dict[float, list[Tensor]] = {}  # by their rate
    for name, tensor in trained.items():
        tensors.setdefault(rates[name], []).append(tensor.requires_grad_(True))
    groups = [
        {"params": group, "recipe": recipe.model_copy(update={"lr": rate})}
        for rate, group in tensors.items()
    ]
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    # One call for all tensors of a group. On CUDA that is the default.
    on_cpu = all(tensor.device.type == "cpu" for tensor in trained.values())
    settings["fused"] = on_cpu or None
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **settings)
    cls = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return cls(groups, betas=recipe.betas, eps=recipe.eps, **settings)
