"""Optimisers and the learning-rate schedule of CoOp and its descendants."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor


class Recipe(BaseModel):
    """How a trained method is optimised; the defaults are CoOp's (arXiv:2109.01134).

    ``epochs`` is one number, or a number from so many shots on: ``{1: 50, 8: 200}``
    means 50 epochs for 1 to 7 shots and 200 for 8 and more.
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
    warmup_epochs: Annotated[int, Field(ge=0)] = 1
    warmup_lr: PositiveFloat = 1e-5
    schedule: Literal["cosine-epoch", "cosine-step", "constant"] = "cosine-epoch"

    def epochs_for(self, shots: int) -> int:
        """Epochs of a fit with this many shots per class."""
        if isinstance(self.epochs, int):
            return self.epochs
        reached = [start for start in self.epochs if start <= shots]
        return self.epochs[max(reached) if reached else min(self.epochs)]


def learning_rate(recipe: Recipe, epoch: int, epochs: int, step: int = 0, steps: int = 1) -> float:
    """The learning rate at a step (of ``steps`` in all) in an epoch (of ``epochs``).

    ``cosine-epoch`` is Dassl's schedule as CoOp uses it: a constant warm-up, then
    a cosine over all epochs that starts one epoch late, so that it never reaches
    zero: lr(j) = lr/2 · (1 + cos(π (j − warmup) / epochs)).
    """
    if recipe.schedule == "constant":
        return recipe.lr
    if recipe.schedule == "cosine-step":
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * step / steps))
    if epoch < recipe.warmup_epochs:
        return recipe.warmup_lr
    phase = (epoch - recipe.warmup_epochs) / epochs
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * phase))


def build_optimizer(
    recipe: Recipe, parameters: Iterable[Tensor] | Iterable[dict[str, Any]]
) -> torch.optim.Optimizer:
    """The recipe's optimiser, of tensors or of groups of them; rates are set before every step.

    Weight decay is coupled (L2) for SGD and Adam, as Dassl does, and decoupled for AdamW.
    """
    groups: list[Any] = list(parameters)
    rates: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **rates)
    cls = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return cls(groups, betas=recipe.betas, eps=recipe.eps, **rates)
