"""Mistakes that authors make, each in a method that is sound apart from it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    CosineClassifier,
    FewShotData,
    Labels,
    MethodCard,
    Module,
    require_shape,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

# By method: the only check that it must fail, and what the line must say.
MISTAKES: dict[str, tuple[str, str]] = {}


class Scales(TrainedMethod):
    """f' = γ ⊙ f, then zero-shot classification."""

    card = MethodCard("Scales", "Scales", "none", "feature", "a scale of every channel")

    def __init_subclass__(cls, told: str = "") -> None:
        cls.card = replace(cls.card, name=cls.__name__)
        check, _, reason = told.partition(": ")
        MISTAKES[cls.__name__] = check, reason

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": 1 + 0.1 * torch.randn(backbone.embed_dim, generator=rng)})

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        scale = require_shape(module, "scale", backbone.embed_dim, "image features of size")
        compare = CosineClassifier(backbone.zero_shot(labels), backbone.logit_scale)
        return lambda features: compare(scale * features)


class ForgetsAClass(Scales, told=r"fit: logits have shape \[15, 4\], not \[15, 5\]"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify = super().attach(module, backbone, labels)
        return lambda features: classify(features)[:, 1:]


class ForgetsAClassInItsLoss(
    Scales, told=r"fit: IndexError: Target 4 is out of bounds.; logits need a column for each class"
):
    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(classifier(batch.inputs)[:, :4], batch.targets)


class LeaksAGradient(Scales, told="fit: trained tensor 'scale' has a gradient of its own: .*det"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": 1.0 * torch.ones(backbone.embed_dim, requires_grad=True)})


class TrainsIntegers(Scales, told="fit: trained tensor 'scale' is torch.int64; .* of float32"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": torch.arange(backbone.embed_dim)})


class TrainsNothing(Scales, told="fit: the module has no trained tensors"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(stored={"scale": torch.ones(backbone.embed_dim)})


class TrainsElsewhere(Scales, told="fit: tensor 'scale' is on meta and the backbone on cpu; give"):
    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(trained={"scale": torch.ones(backbone.embed_dim, device="meta")})


class ComputesElsewhere(Scales, told="fit: .* make tensors with device=backbone.device"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify = super().attach(module, backbone, labels)
        shift = torch.zeros(backbone.embed_dim, device="meta")
        return lambda features: classify(torch.cat([features, shift[None]]))


class HasALossForEachImage(Scales, told=r"fit: the loss is shape \[15\], not one number; take its"):
    def loss(self, classifier: Any, batch: Batch) -> Tensor:
        return F.cross_entropy(classifier(batch.inputs), batch.targets, reduction="none")


class HasNoLoss(Scales, told=r"fit: the loss is nothing \(None\), not one number"):
    def loss(self, classifier: Any, batch: Batch) -> Any:
        F.cross_entropy(classifier(batch.inputs), batch.targets)


class HasNoGradient(Scales, told=r"fit: the loss has no gradient for what is trained \(scale\)"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        return torch.no_grad()(super().attach(module, backbone, labels))


class RefusesItsOwnRecipe(Scales, told="fit: Recipe: field 'lr': Input should be greater than 0"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        recipe = Recipe(lr=-0.1)
        assert recipe.lr > 0
        return super().fit(backbone, data, rng)


class ReturnsNoModule(Scales, told="fit: fit returned a dict, not a Module"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Any:
        return super().fit(backbone, data, rng).tensors


class ReturnsATuple(Scales, told="fit: the classifier returned a tuple, not a tensor of logits"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
        classify = super().attach(module, backbone, labels)
        return lambda features: (classify(features), features)


class Untrained(Scales):
    """It trains nothing, so what attach returns is first looked at afterwards."""

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        shift = 0.1 * data.train.plain.mean(0)
        return Module({"scale": 1 + shift + 0.1 * torch.randn(shift.shape, generator=rng)})


class ReturnsNothing(Untrained, told=r"attach: the classifier returned nothing \(None\), not a"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Any:
        classify = super().attach(module, backbone, labels)

        def answer(features: Tensor) -> None:
            classify(features)

        return answer


class KeepsItsFitOnSelf(
    Untrained, told="attach: .*no attribute 'shift'; another instance has .* not on self"
):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        self.shift = data.train.plain.mean(0)
        return super().fit(backbone, data, rng)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify = super().attach(module, backbone, labels)
        return lambda features: classify(features + self.shift)


class Prints(Untrained, told="attach: 'fitted 5 classes' is printed|is printed; leave it out"):
    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        print(f"fitted {len(data.labels)} classes")
        return super().fit(backbone, data, rng)


class TakesLong(Untrained, told="attach: the classifier takes [34] s for seven images"):
    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        classify, end = super().attach(module, backbone, labels), time.process_time() + 3.1

        def answer(features: Tensor) -> Tensor:
            while time.process_time() < end:
                classify(features)
            return classify(features)

        return answer


class ListsASetting(Untrained, told="settings: 'layers' is a list, which .*; make it a tuple"):
    class Config(Untrained.Config):
        layers: list[int] = [1, 2]


class DefaultsToADictionary(Untrained, told="settings: a default of 'fit' is kept from call to"):
    def fit(self, backbone, data, rng, seen={}):  # type: ignore[no-untyped-def]  # noqa: B006
        return super().fit(backbone, data, rng)


class RemembersInItsClass(Untrained, told="same-seed: a fit changes 'seen' of its class"):
    seen: list[str] = []

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        self.seen.append(data.labels.names[0])
        return super().fit(backbone, data, rng)
