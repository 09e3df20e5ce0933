"""WiSE-FT in weight space: the average of zero-shot and fine-tuned weights, tower and head.

The image tower and the head are fine-tuned together, starting from the zero-shot model. All
weights are then averaged with those of the start.
"""

from __future__ import annotations

import torch

from compatbench.method import (
    PIXELS,
    Backbone,
    Classifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
)
from compatbench.method.trained import Recipe

from ._shared.towers import Tower, shift_tower, zero_shift
from .wise_ft import WiSEFT


class WiSEFTWeights(WiSEFT):
    """z = f̂_θ Wᵀ + b with (θ, W, b) = (1 − α) (θ_0, s W_0, 0) + α (θ_1, W_1, b_1).

    Wortsman et al., *Robust fine-tuning of zero-shot models*, section 3, α = 0.5. The module
    holds α times the differences. So it fits only the source's tower and number of classes.
    """

    card = MethodCard(
        name="wise_ft_weights",
        title="WiSE-FT (weights)",
        paper="arXiv:2109.01903",
        inserts=("image-layers", "classifier"),
        summary="average of zero-shot and fine-tuned image tower and head",
        zero_shot_at={"*": 0.0},
    )

    class Config(WiSEFT.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=3e-5,
            weight_decay=0.1,
            epochs=10,
            batch_size=512,
            schedule="cosine-step",
        )

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return PIXELS

    @property
    def trained_towers(self) -> tuple[Tower, ...]:
        return ("image",)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        head = super().init(backbone, data, rng)
        return Module(zero_shift(backbone, "image") | head.trained)

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> Classifier:
        weights = shift_tower(module, backbone, "image")
        classify = super().attach(module, backbone, labels)
        tower = backbone.image
        return lambda images: classify(tower.encode(images, weights=weights))
