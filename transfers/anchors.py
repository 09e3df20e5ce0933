"""Relative representations: features as similarities to words, the same on both models."""

from __future__ import annotations

import torch
from pydantic import NonNegativeFloat
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
    """

    card = TransferCard(
        name="anchors",
        title="Relative representations",
        paper="arXiv:2209.15430",
        access={"words"},
        summary="Features are described by their similarities to words, and read back as such.",
        takes=JOINT_SPACE,
    )

    class Config(MethodConfig):
        damping: NonNegativeFloat = 1.0

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source = data.words.source.double()
        target = data.words.target.double()
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
