"""The threshold that lies as many spreads from the mean score on both models."""

from __future__ import annotations

from torch import Tensor

from compatbench.method.transfer import ANSWER, TransferCard

from ._shared.moved_threshold import MovedThreshold


class ZScore(MovedThreshold):
    """τ_t = m_t + (τ_s − m_s) σ_t / σ_s.

    m and σ are mean and standard deviation of the images' best scores on each model. Where those
    on the source are all alike, σ_t / σ_s is 1.
    """

    card = TransferCard(
        name="zscore",
        title="Same z-score",
        paper="",
        access={"unlabelled"},
        summary="The threshold has the same z-score among unlabelled images on both models.",
        takes=ANSWER,
    )

    def move(self, threshold: Tensor, source: Tensor, target: Tensor) -> Tensor:
        old, new = source.double(), target.double()
        spread = old.std(correction=0)
        ratio = new.std(correction=0) / spread if spread > 0 else 1.0
        return (new.mean() + (threshold.double() - old.mean()) * ratio).to(threshold)
