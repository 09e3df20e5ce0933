"""The threshold that answers the same share of unlabelled images on both models."""

from __future__ import annotations

from torch import Tensor

from compatbench.method.transfer import ANSWER, TransferCard

from ._shared.moved_threshold import MovedThreshold


class Quantile(MovedThreshold):
    """τ_t = Q_t(q), q being the share of images whose best score on the source is below τ_s.

    Q_t is the quantile of their best scores on the target, linear between images. So as many
    images are answered as on the source, but one at least.
    """

    card = TransferCard(
        name="quantile",
        title="Same share answered",
        paper="",
        access={"unlabelled"},
        summary="The threshold answers the same share of unlabelled images on both models.",
        takes=ANSWER,
    )

    def move(self, threshold: Tensor, source: Tensor, target: Tensor) -> Tensor:
        refused = (source < threshold).double().mean()
        return target.double().quantile(refused).to(threshold)
