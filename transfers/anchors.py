"""Relative representations: features as similarities to words, the same on both models."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from compatbench.backbone.joint_maps import fit_rotation
from compatbench.method import MethodConfig
from compatbench.method.transfer import JOINT_SPACE, TransferCard, TransferData

from ._shared.mapped import Map, MappedTransfer, linear


class Anchors(MappedTransfer):
    """The module sees the source's features that have the target's similarities to the words.

    Moschella et al., *Relative Representations Enable Zero-Shot Latent Space Communication*,
    section 3: f is described by rel(f), its similarities to V anchors. There a head is trained on
    rel. A module that was not trained on rel is given the features f with rel(f) ≈ rel_t instead,
    by damped least squares: f = rel_t A (AᵀA + VλI)⁻¹, with A the words on the source and
    rel_t = f_t Bᵀ. A linear head W becomes W A⁺ B. The anchors are centred words, so rel has mean
    0 over the anchors. λ is ``damping`` times the mean variance of a direction of A. Centring and
    damping are this project's: words vary in few directions, and λ = 0 blows up the others.

    With ``learned``, the anchors are mixtures of words, and similarities are whitened inner
    products f Σ⁻¹ a (Svendsen et al., *Improving Relative Representations with Learned Anchors and
    Whitened Inner Products*, arXiv:2605.30596). Σ is the covariance of each model's words, plus λ
    as above. The mixtures are learned on the source and are the same on the target, see
    ``learn_mixtures``. We could read only the paper's summary, and public code that matches it;
    the loss is from that code. The numbers of anchors and steps, and the rate, are this project's.
    """

    card = TransferCard(
        name="anchors",
        title="Relative representations",
        paper="arXiv:2209.15430",
        access={"words"},
        summary="Features are described by their similarities to words, and read back as such.",
        takes=JOINT_SPACE,
        settings={"learned": {"learned": True}},
    )

    class Config(MethodConfig):
        damping: NonNegativeFloat = 1.0
        learned: bool = False
        per_channel: PositiveInt = 2  # learned anchors for each channel of the source
        steps: NonNegativeInt = 30
        lr: PositiveFloat = 0.5

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source = data.words.source.double()
        target = data.words.target.double()
        if self.config.learned:
            inverse = invert_covariance(source, self.config.damping)
            mixtures = learn_mixtures(source, inverse, self.config, data.generator())
            source = mixtures @ (source - source.mean(0)) @ inverse
            inverse = invert_covariance(target, self.config.damping)
            target = mixtures @ (target - target.mean(0)) @ inverse
        matrix = solve_anchors(source, target, self.config.damping)
        rotation = fit_rotation(*data.words).rotation.to(target)
        return rotation, linear(matrix)


def solve_anchors(source: Tensor, target: Tensor, damping: float) -> Tensor:
    """Return M = BᵀA (AᵀA + VλI)⁻¹, ``[e_t, e_s]``, for centred words A and B.

    Args:
        source: features of the words on the source, ``[V, e_s]``.
        target: features of the words on the target, ``[V, e_t]``.
        damping: λ over the mean variance of a direction of A.
    """
    a = source - source.mean(0)
    b = target - target.mean(0)
    gram = a.T @ a
    gram += damping * gram.trace() / len(gram) * torch.eye(a.shape[1]).to(a)
    return torch.linalg.solve(gram, a.T @ b).T


def invert_covariance(words: Tensor, damping: float) -> Tensor:
    """Return (Σ + λI)⁻¹ of words ``[V, e]``; λ is ``damping`` times a direction's mean variance."""
    covariance = words.T.cov(correction=0)
    identity = torch.eye(len(covariance)).to(covariance)
    return torch.linalg.inv(covariance + damping * covariance.trace() / len(identity) * identity)


@torch.enable_grad()
def learn_mixtures(
    words: Tensor, inverse: Tensor, config: Anchors.Config, generator: torch.Generator
) -> Tensor:
    """Return weights of words for each anchor, ``[K, V]``; those of an anchor add up to 1.

    The whitened anchors A minimise 0.95 · mean_v min_k ‖v − a_k‖ − 0.05 · mean_kl ‖a_k − a_l‖,
    with v the whitened words: each word has a near anchor, and anchors are far from each other.

    Args:
        words: features ``[V, e]``.
        inverse: (Σ + λI)⁻¹, ``[e, e]``.
        generator: draws the start, from which Adam takes ``config.steps`` steps.
    """
    values, vectors = torch.linalg.eigh(inverse)
    whitened = (words - words.mean(0)) @ (vectors * values.sqrt()) @ vectors.T
    whitened = whitened.float()  # for speed
    number = config.per_channel * words.shape[1]
    drawn = 0.01 * torch.randn(number, len(words), generator=generator)
    logits = drawn.to(whitened).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=config.lr)
    for _ in range(config.steps):
        optimizer.zero_grad()
        anchors = logits.softmax(-1) @ whitened
        coverage = torch.cdist(whitened, anchors).amin(1).mean()
        diversity = torch.pdist(anchors).mean()
        loss = 0.95 * coverage - 0.05 * diversity
        loss.backward()
        optimizer.step()
    return logits.detach().to(words).softmax(-1)
