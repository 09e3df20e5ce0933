"""A ridge map between words and images: drawn to the turn of the words, fitted on images."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from compatbench.method import MethodConfig
from compatbench.method.transfer import JOINT_SPACE, TransferCard, TransferData
from compatbench.transfers._shared.mapped import Map, MappedTransfer, linear, paired
from compatbench.transfers._shared.rotation import fit_rotation


class Ridge(MappedTransfer):
    """M = (F_tᵀF_t + nλI)⁻¹(F_tᵀF_s + nλRᵀ), and the module sees f_t M.

    R is the turn that words give, F are the normalised features of unlabelled images: λ → ∞ is
    the transfer ``words``, λ → 0 the least squares of the images. λ is the one of ``dampings``
    that is best on a quarter of the images, which are left out. No label is used, and the target's
    zero-shot stays its own.
    """

    card = TransferCard(
        name="ridge",
        title="Ridge map",
        paper="",
        access={"words", "unlabelled"},
        summary="A map that is fitted on unlabelled images and drawn to the turn of the words.",
        takes=JOINT_SPACE,
    )

    class Config(MethodConfig):
        dampings: tuple[float, ...] = Field((1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0), min_length=1)

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source, own = paired(data.unlabelled.source, data.unlabelled.target)
        rotation = fit_rotation(*data.words).rotation.to(own)
        # The images come in an order that the seed draws.
        best = choose_damping(source, own, rotation.T, self.config.dampings)
        matrix = find_ridge(source, own, rotation.T, best)
        return rotation, linear(matrix)


def choose_damping(
    source: Tensor, target: Tensor, prior: Tensor, dampings: tuple[float, ...]
) -> float:
    """The λ that is best on the first quarter of the images, for a map fitted on the others."""
    held, distances = len(target) // 4, []
    for damping in dampings:
        found = find_ridge(source[held:], target[held:], prior, damping)
        distances.append(float((target[:held] @ found - source[:held]).square().sum()))
    return dampings[distances.index(min(distances))]


def find_ridge(source: Tensor, target: Tensor, prior: Tensor, damping: float) -> Tensor:
    """The M ``[e_t, e_s]`` that minimises ‖F_t M - F_s‖² / n + λ ‖M - M₀‖²."""
    n = len(target)
    left = target.T @ target + n * damping * torch.eye(target.shape[1]).to(target)
    return torch.linalg.solve(left, target.T @ source + n * damping * prior)
