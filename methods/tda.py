"""TDA: two caches of test images, filled while the images stream by, correct zero-shot.

The images that are classified with most certainty are kept in a cache for each class, which raises
the logits of similar images. A second cache holds uncertain images and lowers the logits of
classes that an image is not. Nothing is trained.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, FewShotData, MethodCard, Module

from ._shared.streams import Cache, StreamMethod


class TDA(StreamMethod):
    """z = s · f̂ W_0ᵀ + α Σ exp(−β (1 − ⟨f̂, g⟩)) y − α' Σ exp(−β' (1 − ⟨f̂, g'⟩)) y'.

    Karmanov et al., *Efficient Test-Time Adaptation of Vision-Language Models*, sections 3.2
    and 3.3. Each test image enters the caches before it is classified. Let p be its zero-shot
    probabilities, ŷ the likeliest class and H the entropy of p. For each ŷ, the positive cache
    keeps the three images with the lowest H; their y is one-hot at ŷ. The negative cache keeps
    two images with 0.2 < H / log₂ C < 0.5; their y' is 1 for the classes with 0.03 < p < 1. As
    in the authors' code, H is in nats although the bound has log₂.

    In detail: the module holds α and β, the authors' values for ImageNet; they use others for
    other datasets. The caches are filled anew from every stream.
    """

    card = MethodCard(
        name="tda",
        title="TDA",
        paper="arXiv:2403.18293",
        inserts="classifier",
        summary="caches of certain and uncertain test images beside zero-shot",
        needs={"stream"},
        learns=False,
        zero_shot_at={"alpha": 0.0, "negative_alpha": 0.0},
    )

    class Config(StreamMethod.Config):
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

    def adapt(self, module: Module, features: Tensor, start: Tensor, text: Tensor) -> Tensor:
        config = self.config
        weights = {name: float(number) for name, number in module.stored.items()}
        lowest_doubt, highest_doubt = config.doubtful
        lowest_p, highest_p = config.excluded
        adapted = start.clone()
        probabilities = start.softmax(-1)
        entropies = torch.special.entr(probabilities).sum(-1)
        doubts = entropies / math.log2(max(len(text), 2))
        positive = Cache(text, config.capacity)
        negative = Cache(text, config.negative_capacity)
        for i, guess in enumerate(start.argmax(-1).tolist()):
            key = features[i]
            entropy = float(entropies[i])
            positive.offer(guess, entropy, key, F.one_hot(torch.tensor(guess), len(text)))
            if lowest_doubt < doubts[i] < highest_doubt:
                p = probabilities[i]
                negative.offer(guess, entropy, key, (p > lowest_p) & (p < highest_p))
            adapted[i] += weights["alpha"] * positive.answer(key, weights["beta"])
            against = negative.answer(key, weights["negative_beta"])
            adapted[i] -= weights["negative_alpha"] * against
        return adapted
