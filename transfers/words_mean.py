"""The turn of the words, with the means of both modalities matched."""

from __future__ import annotations

from torch import Tensor

from compatbench.backbone.joint_maps import fit_rotation, paired
from compatbench.method.transfer import JOINT_SPACE, TransferCard, TransferData

from ._shared.mapped import Map, MappedTransfer, linear


class WordsMean(MappedTransfer):
    """The module sees (f_t - μ_t) Rᵀ + μ_s.

    R is the turn of the transfer ``words``, from centred texts; μ are the means of the
    images on both models. Texts and images lie apart in a joint space, so each modality has a
    mean of its own (arXiv:2602.17584 maps both by one rotation up to a shift). The target's
    zero-shot stays its own.
    """

    card = TransferCard(
        name="words-mean",
        title="Turned by words, means matched",
        paper="arXiv:2602.17584",
        access={"words", "unlabelled"},
        summary="As words, with the mean of the image features moved to the source's.",
        takes=JOINT_SPACE,
    )

    def find_map(self, data: TransferData) -> tuple[Tensor, Map]:
        source, target = paired(data.unlabelled.source, data.unlabelled.target)
        rotation = fit_rotation(*data.words).rotation.to(target)
        shift = source.mean(0) - target.mean(0) @ rotation.T
        return rotation, linear(rotation.T, shift)
