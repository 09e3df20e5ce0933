"""The standard measures: counts, flips (arXiv:2011.09161), calibration (arXiv:1904.01685), rates.

Measures of an upgrade read rows with both sides, ``[rows]``. The docstring of a measure begins with
the sentence that pages show.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.measures.measure_registry import (
    Answers,
    Columns,
    add_mean,
    measure,
)

BINS = 15  # of equal mass

Numbers = NDArray[np.float64]


@measure("Correct", "images", "higher")
def correct(answers: Answers) -> int:
    """Classified right."""
    return int(answers.right(answers.predictions).sum())


@measure("Images", "images")
def total(answers: Answers) -> int:
    """In the test set."""
    return len(answers.targets)


@measure("Zero-shot correct", "images")
def zero_shot_correct(answers: Answers) -> int:
    """Classified right by the model's own zero-shot classifier."""
    return int(answers.right(answers.zero_shot).sum())


@measure("Negative flips", "images", "lower")
def negative_flips(answers: Answers) -> int | None:
    """Right on the source and wrong on the target."""
    if answers.source is None:
        return None
    before = answers.right(answers.source)
    after = answers.right(answers.predictions)
    return int((before & ~after).sum())


@measure("Positive flips", "images", "higher")
def positive_flips(answers: Answers) -> int | None:
    """Wrong on the source and right on the target."""
    if answers.source is None:
        return None
    before = answers.right(answers.source)
    after = answers.right(answers.predictions)
    return int((~before & after).sum())


@measure("Inconsistent errors", "images", "lower")
def inconsistent_errors(answers: Answers) -> int | None:
    """Wrong on source and target, with another class each time."""
    if answers.source is None:
        return None
    before = np.asarray(answers.source.classes)
    after = np.asarray(answers.predictions.classes)
    both_wrong = (before != answers.targets) & (after != answers.targets)
    return int((both_wrong & (before != after)).sum())


@measure("ECE", "percent", "lower", mean_on=None)
def ece(answers: Answers) -> float:
    """Expected calibration error, over 15 bins of equal mass.

    The mean over bins, weighted by their images, of |accuracy − mean confidence|, with bins as in
    Nixon et al., *Measuring Calibration in Deep Learning*. The order of the images does not matter.
    """
    right = answers.right(answers.predictions)
    confidence = np.asarray(answers.predictions.confidence, dtype=np.float64)
    # Equal confidences are ordered by correctness, so the order of the images does not matter.
    order = np.lexsort((right, confidence))
    bins = min(BINS, len(right))
    size, larger = divmod(len(right), bins)  # the first ``larger`` bins contain one image more
    firsts = [number * size + min(number, larger) for number in range(bins)]
    gaps = np.add.reduceat(right[order] - confidence[order], firsts)
    return round(100 * float(np.abs(gaps).sum()) / len(right), 4)


def _percent(row: Columns, name: str) -> Numbers:
    return 100 * row[name] / row["total"]


@measure("Accuracy", "percent", "higher", kind="row")
def accuracy(row: Columns) -> Numbers:
    """Top-1 accuracy."""
    return _percent(row, "correct")


@measure("Zero-shot", "percent", kind="row")
def zero_shot(row: Columns) -> Numbers:
    """Top-1 accuracy of the model's own zero-shot classifier."""
    return _percent(row, "zero_shot_correct")


@measure("Gain", "points", "higher", kind="row")
def gain(row: Columns) -> Numbers:
    """Accuracy minus that of the model's own zero-shot classifier."""
    return row["accuracy"] - row["zero_shot"]


@measure("NFR", "percent", "lower", kind="row")
def negative_flips_share(row: Columns) -> Numbers:
    """Negative flip rate: right before, wrong now."""
    return _percent(row, "negative_flips")


@measure("PFR", "percent", "higher", kind="row")
def positive_flips_share(row: Columns) -> Numbers:
    """Positive flip rate: wrong before, right now."""
    return _percent(row, "positive_flips")


@measure("Inconsistent", "percent", "lower", kind="row")
def inconsistent_errors_share(row: Columns) -> Numbers:
    """Wrong before and now, with another class each time."""
    return _percent(row, "inconsistent_errors")


_TRAINED_FOR = "accuracy on the model it was trained for"
_SAME_MODULE = "accuracy of the same module on the new model"
add_mean("source", "accuracy", "source", "Source", _TRAINED_FOR)
add_mean("target", "accuracy", "target", "Target", _SAME_MODULE)


@measure("H", "percent", "higher", kind="upgrade")
def h(rows: pd.DataFrame) -> Numbers:
    """Harmonic mean of source and target, per dataset and seed, then averaged."""
    source = rows["source_accuracy"].to_numpy("float64")
    target = rows["target_accuracy"].to_numpy("float64")
    return harmonic_mean(source, target)


add_mean("gain", "gain", "target", sentence="target accuracy minus the target's zero-shot")
_ON_SOURCE = "source accuracy minus the source's zero-shot"
add_mean("source_gain", "gain", "source", "Source gain", _ON_SOURCE)
for _flips in ("negative_flips", "positive_flips", "inconsistent_errors"):
    add_mean(_flips, f"{_flips}_share", "target")
add_mean("source_ece", "ece", "source", "Source ECE")
add_mean("target_ece", "ece", "target", "Target ECE")


@measure("Diversity", kind="upgrade")
def diversity(rows: pd.DataFrame) -> Numbers:
    """Mean of 1 − cos between the vectors of a prompt, on the source."""
    return rows["source_prompt_diversity"].to_numpy("float64")
