"""CLIPood: the image tower is trained with text margins and averaged over all steps.

All weights of the image tower are trained, with a larger margin to classes whose text is unlike
that of the right class. The average of the weights over the whole fit classifies; the first and
the last steps count most in it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.method import (
    PIXELS,
    Backbone,
    CosineClassifier,
    FewShotData,
    ImageInput,
    Labels,
    MethodCard,
    Module,
)
from compatbench.method.trained import Batch, Recipe, TrainedMethod

from ._shared.towers import Tower, shift_tower, zero_shift


class CLIPood(TrainedMethod):
    """z = s cos(f_θ̄, t_c), with θ̄ = θ_0 + Δ the average of the image tower's weights over a fit.

    Shu et al., *CLIPood: Generalizing CLIP to Out-of-Distributions*. The loss is the
    cross-entropy of s (⟨f̂, t̂_c⟩ − λ ⟨t̂_y, t̂_c⟩) with λ = 0.3, which asks for a larger
    margin to classes whose text is unlike that of y (section 4.2). The weights after each step
    k = 0 … T are averaged with ω_k = Beta(β, β) at (k + ½) / (T + 1) (section 4.3). At β = 0.1,
    the authors' choice for CoOp's datasets, the first and the last steps weigh most. The text
    is frozen, and the module holds Δ.
    """

    card = MethodCard(
        name="clipood",
        title="CLIPood",
        paper="arXiv:2302.00864",
        inserts="image-layers",
        summary="the image tower, trained with text margins and averaged",
        zero_shot_at={"*": 0.0},
    )

    class Config(TrainedMethod.Config):
        recipe: Recipe = Recipe(
            optimizer="adamw",
            lr=5e-6,
            weight_decay=0.1,
            batch_size=36,
            warmup_epochs=0,
            schedule="cosine-step",
        )
        steps: PositiveInt = 500
        margin: NonNegativeFloat = 0.3
        beta: PositiveFloat = 0.1

    config: Config

    def image_input(self, backbone: Backbone) -> ImageInput:
        return PIXELS

    @property
    def trained_towers(self) -> tuple[Tower, ...]:
        return ("image",)

    def init(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        return Module(zero_shift(backbone, "image"))

    def epochs(self, shots: int, per_epoch: int) -> int:
        return math.ceil(self.config.steps / per_epoch)

    def loss(self, classifier: ShiftedClassifier, batch: Batch) -> Tensor:
        texts = classifier.weights
        margins = classifier.scale * self.config.margin * texts[batch.targets] @ texts.T
        return F.cross_entropy(classifier(batch.inputs) - margins, batch.targets)

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        steps = math.prod(self.plan_steps(data.shots, len(data.train)))
        weights = iter(self.step_weights(steps))
        start = self.init(backbone, data, rng)
        # The differences start at 0, so a copy of them is an empty sum.
        mean = Module(start.trained).detach()

        @torch.no_grad()
        def add(module: Module) -> None:
            weight = next(weights)
            for name, tensor in module.trained.items():
                mean[name].add_(tensor, alpha=weight)

        def loss(module: Module, batch: Batch) -> Tensor:
            # The weights before this step are those after the previous one.
            add(module)
            return self.loss(self.attach(module, backbone, data.labels), batch)

        last = self.train(start, loss, backbone, data, rng)
        add(last)
        return mean

    def step_weights(self, steps: int) -> list[float]:
        """Return the shares ω_k / Σ ω of the weights after k = 0 … ``steps`` steps."""
        points = [(k + 0.5) / (steps + 1) for k in range(steps + 1)]
        densities = [(x * (1 - x)) ** (self.config.beta - 1) for x in points]
        total = sum(densities)
        return [density / total for density in densities]

    def attach(self, module: Module, backbone: Backbone, labels: Labels) -> ShiftedClassifier:
        return ShiftedClassifier(module, backbone, backbone.zero_shot(labels))


class ShiftedClassifier(CosineClassifier):
    """A cosine classifier of images ``[batch, 3, H, W]`` behind a tower with shifted weights.

    Args:
        module: holds the differences Δ of the image tower's weights.
        texts: class weights, ``[C, e]``.
    """

    def __init__(self, module: Module, backbone: Backbone, texts: Tensor) -> None:
        super().__init__(texts, backbone.logit_scale)
        self._tower = backbone.image
        self._weights = shift_tower(module, backbone, "image")

    def encode(self, inputs: Tensor) -> Tensor:
        return self._tower.encode(inputs, weights=self._weights)
