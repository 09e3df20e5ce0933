"""MERGETUNE: CoOp's context is trained further, to lie between CoOp and zero-shot.

One loss holds the texts of CoOp's context to the hand-written ones. Another asks that all
classifiers on the line from CoOp's texts to the new ones classify the shots well. The result is
one context in place of an ensemble of the two.
"""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import Backbone, CosineClassifier, FewShotData, MethodCard, Module
from compatbench.method.trained import Batch, Recipe

from .kgcoop import KgCoOp


class MergeTune(KgCoOp):
    """L = L_ce(t) + λ · (1/C) Σ_c (1 − cos(t_c, t⁰_c)) + μ · mean_τ L_ce(t* + τ (t − t*)).

    Wang et al., *MERGETUNE: Continued Fine-Tuning of Vision-Language Models*, on CoOp. t* are
    the text features of CoOp's learned context, at which the new one starts, and t⁰ those of a
    hand-written template. The last term asks for a path of low loss between CoOp and the
    result: texts at τ = 0.1, 0.3 ... 0.9 (``points`` of them), which are not normalised before
    they are mixed. The second term, KgCoOp's, replaces such a path to zero-shot, which would
    need the images of CLIP's own training. λ = 10, μ = 1. CoOp's fit (``coop_recipe``) and the
    further training share a suite's cap on steps equally.
    """

    card = MethodCard(
        name="mergetune",
        title="MERGETUNE (CoOp)",
        paper="arXiv:2601.10497",
        inserts="text-input",
        summary="CoOp's context, trained further towards zero-shot",
        zero_shot_at={"context": "a photo of a"},
    )

    class Config(KgCoOp.Config):
        weight: NonNegativeFloat = 10.0
        line_weight: NonNegativeFloat = 1.0
        points: PositiveInt = 5
        coop_recipe: Recipe = Recipe(epochs=100)

    config: Config

    def fit(self, backbone: Backbone, data: FewShotData, rng: torch.Generator) -> Module:
        config = self.config
        scale = backbone.logit_scale
        # CoOp's own loss, without the term that KgCoOp adds to it.
        cross_entropy = super(KgCoOp, self).loss

        def coop_loss(module: Module, batch: Batch) -> Tensor:
            return cross_entropy(self.attach(module, backbone, data.labels), batch)

        start = self.init(backbone, data, rng)
        coop = self.train(
            start, coop_loss, backbone, data, rng, share=0.5, recipe=config.coop_recipe
        )
        with torch.no_grad():
            coop_texts = self.encode(coop, backbone, data.labels)

        def merge_loss(module: Module, batch: Batch) -> Tensor:
            texts = self.encode(module, backbone, data.labels)
            line_losses = []
            for point in self.line():
                mixed = coop_texts.lerp(texts, point)
                line_losses.append(cross_entropy(CosineClassifier(mixed, scale), batch))
            near_zero_shot = self.loss(CosineClassifier(texts, scale), batch)
            return near_zero_shot + config.line_weight * torch.stack(line_losses).mean()

        return self.train(coop, merge_loss, backbone, data, rng, share=0.5)

    def line(self) -> list[float]:
        """Return the points τ on the line: from 0.1, in steps of 1 / ``points``, at most 1."""
        count = self.config.points
        points = []
        for i in range(count):
            point = 0.1 + i / count
            if point < 1.01:  # with room for rounding
                points.append(point)
        return points
