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
    rel; a module that was not is given rel back as features: the f with rel(f) ≈ rel_t, by damped
    least squares, f = rel_t A (AᵀA + VλI)⁻¹, with A the words on the source and rel_t = f_t Bᵀ.
    A linear head W becomes W A⁺ B. Anchors are words, centred, which takes from rel its
    mean over the anchors; λ is the mean variance of a direction of A, times ``damping``. Both are
    this project's: few directions of the words say much, and λ = 0 blows up the others.
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
        source, target = (words.double() for words in data.words)
        matrix = read_back(source, target, self.config.damping)
        rotation = fit_rotation(*data.words).rotation.to(target)
        return rotation, linear(matrix)


def read_back(source: Tensor, target: Tensor, damping: float) -> Tensor:
    """M = BᵀA (AᵀA + VλI)⁻¹ ``[e_t, e_s]`` for words A ``[V, e_s]`` and B ``[V, e_t]``, centred."""
    a, b = source - source.mean(0), target - target.mean(0)
    gram, eye = a.T @ a, torch.eye(a.shape[1]).to(a)
    gram += damping * gram.trace() / len(gram) * eye
    return torch.linalg.solve(gram, a.T @ b).T
