"""TDA: caches of the test images themselves, filled while they stream by.

Test images arrive one by one, and those that are classified with most certainty are kept in a
cache per class. A second cache holds uncertain images and says what an image is not; nothing is
trained.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    Backbone,
    Classifier,
    FewShotData,
    Labels,
    Method,
    MethodCard,
    Module,
)

from ._shared.texts import Templates, zero_shot


class TDA(Method):
    """z = s · f̂ W_0ᵀ + α Σ exp(−β (1 − ⟨f̂, g⟩)) y − α' Σ exp(−β' (1 − ⟨f̂, g'⟩)) y'.

    Karmanov et al., *Efficient Test-Time Adaptation of Vision-Language Models*, sections 3.2 and
    3.3. Test images come one at a time, and each enters the caches before it is classified. With
    p its zero-shot probabilities, ŷ the likeliest class and H the entropy of p, the positive cache
    keeps of each ŷ the three images of the lowest H, their y one-hot at ŷ. Of images with
    0.2 < H / log₂ C < 0.5 the negative cache keeps two; y' is 1 for the classes with
    0.03 < p < 1. As in the authors' code H is in nats, though the bound has log₂.

    Nothing is learned. α and β are the authors' for ImageNet, other data sets have others; the
    module holds them, and the caches are those of the stream at hand.
    """

    card = MethodCard(
        name="tda",
        title="TDA",
        paper="arXiv:2403.18293",
        inserts="classifier",
        summary="caches of sure and of doubtful test images beside zero-shot logits",
        needs={"stream"},
        learns=False,
        zero_shot_at={"alpha": 0.0, "negative_alpha": 0.0},
    )

    class Config(Method.Config):
        templates: Templates = "first"
        alpha: NonNegativeFloat = 2.0
        beta: NonNegativeFloat = 5.0
        capacity: PositiveInt = 3
        negative_alpha: NonNegativeFloat = 0.117
        negative_beta: NonNegativeFloat = 1.0
        negative_capacity: PositiveInt = 2
        doubtful: tuple[float, float] = (0.2, 0.5)
        excluded: tuple[float, float] = (0.03, 1.0)

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        names = ("alpha", "beta", "negative_alpha", "negative_beta")
        numbers = {name: torch.tensor(getattr(self.config, name)) for name in names}
        return Module(stored=numbers).to(backbone.device)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        config, text = self.config, zero_shot(backbone, labels, self.config.templates)
        weights = {name: float(number) for name, number in module.stored.items()}

        def classify(stream: Tensor) -> Tensor:
            features = F.normalize(stream, dim=-1)
            logits = backbone.logit_scale * features @ text.T
            adapted, p = logits.clone(), logits.softmax(-1)
            entropies = torch.special.entr(p).sum(-1)
            (low, high), (least, most) = config.doubtful, config.excluded
            doubts = entropies / math.log2(max(len(text), 2))
            sure = Cache(text, config.capacity)
            unsure = Cache(text, config.negative_capacity)
            for i, guess in enumerate(logits.argmax(-1).tolist()):
                offered = guess, float(entropies[i]), features[i]
                sure.offer(*offered, F.one_hot(torch.tensor(guess), len(text)))
                if low < doubts[i] < high:
                    unsure.offer(*offered, (p[i] > least) & (p[i] < most))
                adapted[i] += weights["alpha"] * sure.answer(features[i], weights["beta"])
                against = unsure.answer(features[i], weights["negative_beta"])
                adapted[i] -= weights["negative_alpha"] * against
            return adapted

        return classify


class Cache:
    """The images of the lowest entropy for each class that was guessed.

    ``text`` ``[C, e]`` gives the sizes, ``capacity`` the images for each guess.
    """

    def __init__(self, text: Tensor, capacity: int) -> None:
        classes, size = text.shape
        self.keys = text.new_zeros(classes, capacity, size)
        self.values = text.new_zeros(classes, capacity, classes)  # zero in empty places
        self.entropies = [[math.inf] * capacity for _ in range(classes)]

    def offer(self, guess: int, entropy: float, key: Tensor, value: Tensor) -> None:
        """Takes an image in if a place is empty or its entropy is lower than the highest."""
        entropies = self.entropies[guess]
        place = entropies.index(max(entropies))
        if entropy < entropies[place]:
            entropies[place] = entropy
            self.keys[guess, place] = key
            self.values[guess, place] = value.to(self.values)

    def answer(self, feature: Tensor, beta: float) -> Tensor:
        """Σ exp(−β (1 − ⟨f̂, g⟩)) y over all that is in it, ``[C]`` of a feature ``[e]``."""
        near = torch.exp(-beta * (1 - self.keys.flatten(0, 1) @ feature))
        return near @ self.values.flatten(0, 1)
