"""KgCoOp: CoOp, kept near the hand-written prompts.

The context vectors are trained as in CoOp. A second loss keeps each class's text feature near
that of a hand-written prompt, so that less general knowledge is lost.
"""

from __future__ import annotations

from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from compatbench.method import CosineClassifier, MethodCard
from compatbench.method.trained import Batch, Recipe

from ._shared.prompts import teacher_distance
from ._shared.texts import Template
from .coop import CoOp


class KgCoOp(CoOp):
    """L = L_ce + λ · (1/C) Σ_c (1 − cos(t_c, t⁰_c)): CoOp, held near the zero-shot text features.

    Yao et al., *Visual-Language Prompt Tuning with Knowledge-guided Context Optimization*,
    equation 5. t⁰ are the frozen features of a hand-written template, ``teacher`` or else the
    task's for teachers. λ = 8; the context starts at the words "a photo of a".
    """

    card = MethodCard(
        name="kgcoop",
        title="KgCoOp",
        paper="arXiv:2303.13283",
        inserts="text-input",
        summary="CoOp kept near hand-written text features",
        zero_shot_at={"context": "a photo of a"},
    )

    class Config(CoOp.Config):
        recipe: Recipe = Recipe(batch_size=128, epochs=100)
        context_length: PositiveInt = 4
        context_words: str | None = "a photo of a"
        weight: NonNegativeFloat = 8.0
        teacher: Template | None = None

    config: Config

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        distance = teacher_distance(classifier, batch, self.config.teacher)
        return super().loss(classifier, batch) + self.config.weight * distance
