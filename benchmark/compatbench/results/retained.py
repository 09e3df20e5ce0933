"""What the old module keeps of the gain that a module retrained on the target would have."""

from __future__ import annotations

from dataclasses import dataclass

from compatbench.results.bootstrap import Interval, ratio_interval
from compatbench.results.intervals import dataset_means
from compatbench.results.measures import Expected, Mean, Upgrade, compute_standing
from compatbench.results.store import MethodResults


@dataclass(frozen=True)
class Retained:
    """The old module and a retrained one, on one target.

    Attributes:
        attached: gain of the old module over the target's zero-shot, in points.
        retrained: the same of a module fitted on the target.
        kept: the first as a share of the second, in percent.
    """

    attached: Mean | None
    retrained: Mean | None
    kept: Interval | None


def compute_retained(
    results: MethodResults, expected: Expected, upgrade: Upgrade, shots: int
) -> Retained:
    """The share is the ratio of two means over datasets and seeds, not the mean of ratios.

    On a dataset where retraining gains next to nothing the ratio is next to anything, and one
    such dataset would decide the mean.

    Returns:
        No share if any cell is missing, or if retraining does not clearly gain: the 95 % interval
        of its mean gain over datasets is not above 0.
    """
    attached = compute_standing(results, expected, upgrade, shots)
    # A module that was fitted on the target is its own source.
    retrained = compute_standing(results, expected, (upgrade[1], upgrade[1]), shots)
    gains = [dataset_means(one, "gain") for one in (attached, retrained)]
    kept = None
    if gains[0] is not None and gains[1] is not None:
        kept = ratio_interval(list(gains[0].values()), list(gains[1].values()))
    if kept is not None:
        kept = Interval(100 * kept.value, 100 * kept.low, 100 * kept.high)
    return Retained(attached.mean("gain"), retrained.mean("gain"), kept)
