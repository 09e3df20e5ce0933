"""DeKg: KgCoOp, with learned texts that depend less on the hand-written ones.

KgCoOp keeps each class's text feature near that of a hand-written prompt. A third loss keeps the
similarities between the learned class features from copying those between the hand-written ones,
which leaves room for what the shots teach.
"""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from compatbench.method import CosineClassifier, MethodCard
from compatbench.method.trained import Batch

from .kgcoop import KgCoOp


class DeKg(KgCoOp):
    """L = L_ce + λ · (1/C) Σ_c (1 − cos(t_c, t⁰_c)) + μ · HSIC(t, t⁰).

    Li et al., *Divergence-enhanced Knowledge-guided Context Optimization for Visual-Language
    Prompt Tuning* (ICLR 2025). HSIC, the Hilbert-Schmidt independence criterion of the C
    learned text features t and the hand-written ones t⁰, is tr(H K H K⁰) with K = t tᵀ, K⁰ = t⁰
    t⁰ᵀ and H = I − 11ᵀ/C. As in the authors' code, t and t⁰ are divided by their Frobenius
    norms, so that it is between 0 and 1. λ = 8, μ = 6.
    """

    card = MethodCard(
        name="dekg",
        title="DeKg",
        paper="ICLR 2025",
        inserts="text-input",
        summary="KgCoOp, less dependent on the hand-written texts",
        zero_shot_at={"context": "a photo of a"},
    )

    class Config(KgCoOp.Config):
        independence: NonNegativeFloat = 6.0

    config: Config

    def loss(self, classifier: CosineClassifier, batch: Batch) -> Tensor:
        template = self.config.teacher or batch.labels.teacher_template
        teacher = batch.backbone.zero_shot(batch.labels, template)
        dependence = hsic(classifier.weights, teacher)
        return super().loss(classifier, batch) + self.config.independence * dependence


def hsic(x: Tensor, y: Tensor) -> Tensor:
    """Return tr(H x xᵀ H y yᵀ) of rows ``[C, e]``, each matrix divided by its Frobenius norm."""
    centred = x - x.mean(0)
    # H is symmetric and H = H², so the trace is the squared norm of yᵀ H x.
    trace = (y.T @ centred).square().sum()
    return trace / (x.square().sum() * y.square().sum())
