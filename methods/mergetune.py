"""MERGETUNE: CoOp's context trained further, to lie between CoOp and zero-shot.

After CoOp's fit its context is trained once more. One loss holds its texts to the hand-written
ones; another asks that all classifiers on the line from CoOp's texts to the new ones classify
the shots well. The result is one context in place of an ensemble of the two.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, CosineClassifier, FewShotData, MethodCard, Module
from compatbench.method.trained import Batch, Recipe

from .kgcoop import KgCoOp


class MergeTune(KgCoOp):
    """L = L_ce(t) + λ · (1/C) Σ_c (1 − cos(t_c, t⁰_c)) + μ · mean_τ L_ce(t* + τ (t − t*)).

    Wang et al., *MERGETUNE: Continued Fine-Tuning of Vision-Language Models*, on CoOp. t* are the
    text features of the context that CoOp has learned, at which the new one starts, and
    t⁰ those of a hand-written template. The last term stands for a path of low loss between
    CoOp and the result: texts at τ = 0.1, 0.3 ... 0.9 (``points`` of them), which are not
    normalised before they are mixed. The second, of KgCoOp, stands for such a path to zero-shot,
    for which the images of CLIP's own training would be needed. λ = 10, μ = 1.

    Recipes: CoOp's context starts at the words "a photo of a", SGD at 2e-3, batch 32, 100 epochs
    (``coop_recipe``); the further training has batches of 128. A suite's cap on steps is shared
    equally by the two. Both keep the last step; the authors keep the epoch of the
    latter that is best on validation images.
    """

    card = MethodCard(
        name="mergetune",
        title="MERGETUNE (CoOp)",
        paper="arXiv:2601.10497",
        inserts="text-input",
        summary="CoOp's context, trained further to lie between CoOp and zero-shot",
        zero_shot_at={"context": "a photo of a"},
    )

    class Config(KgCoOp.Config):
        weight: NonNegativeFloat = 10.0
        line_weight: NonNegativeFloat = 1.0
        points: PositiveInt = 5
        coop_recipe: Recipe = Recipe(epochs=100)

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config, scale, on = self.config, backbone.logit_scale, (backbone, data, rng)

        def coop_loss(module: Module, batch: Batch) -> Tensor:
            return super(KgCoOp, self).loss(self.attach(module, backbone, data.labels), batch)

        start = self.init(*on)
        stage = partial(self.train, share=0.5)
        coop = stage(start, coop_loss, *on, recipe=config.coop_recipe)
        with torch.no_grad():
            coop_texts = self.encode(coop, backbone, data.labels)

        def merge_loss(module: Module, batch: Batch) -> Tensor:
            texts = self.encode(module, backbone, data.labels)
            line = [
                super(KgCoOp, self).loss(CosineClassifier(mixed, scale), batch)
                for mixed in (coop_texts.lerp(texts, point) for point in self.line())
            ]
            near_zero_shot = self.loss(CosineClassifier(texts, scale), batch)
            return near_zero_shot + config.line_weight * torch.stack(line).mean()

        return stage(coop, merge_loss, *on)

    def line(self) -> list[float]:
        """The τ at which the line is tried: 0.1 and on, 1 / ``points`` apart, at most 1."""
        count = self.config.points
        return [0.1 + i / count for i in range(count) if 0.1 + i / count < 1.01]
