"""A ridge map that is fitted on images and shrunk towards the rotation found from words."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from compatbench.backbone.joint_maps import (
    DAMPINGS,
    choose_damping,
    find_ridge,
    fit_rotation,
    paired,
)
from compatbench.method import MethodConfig
from compatbench.method.transfer import JOINT_SPACE, TransferCard, TransferData

from ._shared.mapped import Map, MappedTransfer, linear


class Ridge(MappedTransfer):
    """M = (F_tᵀF_t + nλI)⁻¹(F_tᵀF_s + nλRᵀ), and the module sees f_t M.

    R is the rotation found from words, and F are the normalised features of unlabelled images.
    λ → ∞ is the transfer ``words``, λ → 0 the least squares of the images. λ is the one of
    ``dampings`` that is best on a quarter of the images, held out. No label is used, and the
    target's zero-shot classifier is not changed.
    """

    card = TransferCard(
        name="ridge",
        title="Ridge map",
        paper="",
        access={"words", "unlabelled"},
        summary="A map fitted on unlabelled images and shrunk towards the rotation of the words.",
        takes=JOINT_SPACE,
    )

    class Config(MethodConfig):
        dampings: tuple[float, ...] = Field(DAMPINGS, min_length=1)

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source, target = paired(data.unlabelled.source, data.unlabelled.target)
        rotation = fit_rotation(*data.words).rotation.to(target)
        # The images come in an order that the seed draws.
        best = choose_damping(source, target, rotation.T, self.config.dampings)
        matrix = find_ridge(source, target, rotation.T, best)
        return rotation, linear(matrix)
