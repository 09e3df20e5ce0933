"""A small trained method for tests of the training loop."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.backbone import Backbone
from compatbench.method import FewShotData, Labels, Method, MethodCard, Module
from compatbench.method.trained import Recipe, TrainedMethod

ToyMethod = TypeVar("ToyMethod", bound="Toy")


class Toy(TrainedMethod):
    """A linear classifier; a test may change its loss."""

    card = MethodCard("toy", "Toy", "none", "classifier", "a linear classifier")

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(epochs=6, batch_size=4, lr=0.1)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        weight = torch.randn(len(data.labels), backbone.embed_dim, generator=rng)
        return Module({"weight": weight}, {"shift": torch.rand((), generator=rng)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
        weight = module["weight"] + module["shift"]
        return lambda features: F.normalize(features, dim=-1) @ weight.T


def toy(cls: type[ToyMethod] = Toy, max_steps: int | None = None, **recipe: Any) -> ToyMethod:
    """Return a toy method with changes of its recipe."""
    recipe = Toy.Config().recipe.model_dump() | recipe
    return cls(cls.Config(recipe=Recipe.model_validate(recipe), max_steps=max_steps))


def fit(method: Method, backbone: Backbone, data: FewShotData, seed: int = 1) -> Module:
    """Fit a method with a seed."""
    return method.fit(backbone, data, torch.Generator().manual_seed(seed))


class Recorded:
    """Rows that record the indices that were read, and those that were prefetched."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self.asked: list[Tensor] = []
        self.told: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.asked.append(index)
        return self.rows[index]

    def prefetch(self, index: Tensor) -> None:
        self.told.append(index)
