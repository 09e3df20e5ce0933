"""What an upgrade does to a method: figures of its rows on both sides, ``[seeds, tasks]``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.measures.registry import add_mean, measure

if TYPE_CHECKING:
    from compatbench.results.standing import Figures, Standing

_TRAINED_FOR = "accuracy on the model it was trained for"
_SAME_MODULE = "accuracy of the same module on the new model"
add_mean("source", "accuracy", side="source", title="Source", sentence=_TRAINED_FOR)
add_mean("target", "accuracy", side="target", title="Target", sentence=_SAME_MODULE)


@measure(
    of="upgrade",
    title="H",
    unit="percent",
    direction="higher",
    sentence="harmonic mean of source and target, per dataset and seed, then averaged",
)
def h(standing: Standing) -> Figures:
    return harmonic_mean(
        standing.column("source", "accuracy"), standing.column("target", "accuracy")
    )


_ON_TARGET = "target accuracy minus the target's zero-shot"
_ON_SOURCE = "source accuracy minus the source's zero-shot"
add_mean("gain", "gain", side="target", sentence=_ON_TARGET)
add_mean("source_gain", "gain", side="source", title="Source gain", sentence=_ON_SOURCE)
add_mean("negative_flips", "negative_flips_share", side="target")
add_mean("positive_flips", "positive_flips_share", side="target")
add_mean("inconsistent_errors", "inconsistent_errors_share", side="target")
add_mean("source_ece", "ece", side="source", title="Source ECE")
add_mean("target_ece", "ece", side="target", title="Target ECE")


@measure(
    of="upgrade",
    title="Diversity",
    unit="",
    direction=None,
    sentence="mean of 1 − cos between the vectors of a prompt, on the source",
)
def diversity(standing: Standing) -> Figures:
    return standing.column("source", "prompt_diversity")
