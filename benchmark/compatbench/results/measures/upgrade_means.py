"""What an upgrade does to a method: figures of its rows on both sides, ``[seeds, tasks]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.measures.registry import of_upgrade

if TYPE_CHECKING:
    from compatbench.results.standing import Figures, Standing


@of_upgrade(
    title="Source",
    unit="percent",
    direction="higher",
    sentence="accuracy on the model it was trained for",
)
def source(standing: Standing) -> Figures:
    return standing.column("source", "accuracy")


@of_upgrade(
    title="Target",
    unit="percent",
    direction="higher",
    sentence="accuracy of the same module on the new model",
)
def target(standing: Standing) -> Figures:
    return standing.column("target", "accuracy")


@of_upgrade(
    title="H",
    unit="percent",
    direction="higher",
    sentence="harmonic mean of source and target, per dataset and seed, then averaged",
)
def h(standing: Standing) -> Figures:
    return harmonic_mean(source(standing), target(standing))


@of_upgrade(
    title="Gain",
    unit="points",
    direction="higher",
    sentence="target accuracy minus the target's zero-shot",
)
def gain(standing: Standing) -> Figures:
    return standing.column("target", "gain")


@of_upgrade(
    title="Source gain",
    unit="points",
    direction="higher",
    sentence="source accuracy minus the source's zero-shot",
)
def source_gain(standing: Standing) -> Figures:
    return standing.column("source", "gain")


@of_upgrade(
    title="NFR",
    unit="percent",
    direction="lower",
    sentence="negative flip rate: right before, wrong now",
)
def negative_flips(standing: Standing) -> Figures:
    return standing.column("target", "negative_flips_share")


@of_upgrade(
    title="PFR",
    unit="percent",
    direction="higher",
    sentence="positive flip rate: wrong before, right now",
)
def positive_flips(standing: Standing) -> Figures:
    return standing.column("target", "positive_flips_share")


@of_upgrade(
    title="Inconsistent",
    unit="percent",
    direction="lower",
    sentence="wrong before and now, with another class each time",
)
def inconsistent_errors(standing: Standing) -> Figures:
    return standing.column("target", "inconsistent_errors_share")


@of_upgrade(
    title="Source ECE",
    unit="percent",
    direction="lower",
    sentence="expected calibration error on the source",
)
def source_ece(standing: Standing) -> Figures:
    return standing.column("source", "ece")


@of_upgrade(
    title="Target ECE",
    unit="percent",
    direction="lower",
    sentence="expected calibration error on the target",
)
def target_ece(standing: Standing) -> Figures:
    return standing.column("target", "ece")


@of_upgrade(
    title="Diversity",
    unit="",
    direction=None,
    sentence="mean of 1 − cos between the vectors of a prompt, on the source",
)
def diversity(standing: Standing) -> Figures:
    return standing.column("source", "prompt_diversity")
