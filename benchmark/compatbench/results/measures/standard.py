"""Counts, flips (arXiv:2011.09161), calibration (arXiv:1706.04599), and what rows give."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compatbench.results.measures.registry import Answers, Columns, measure

BINS = 15  # of equal mass

Figures = NDArray[np.float64]


@measure(title="Correct", unit="images", direction="higher", sentence="classified right")
def correct(answers: Answers) -> int:
    return int(answers.right(answers.predictions).sum())


@measure(title="Images", unit="images", direction=None, sentence="in the test set")
def total(answers: Answers) -> int:
    return len(answers.targets)


@measure(
    title="Zero-shot correct",
    unit="images",
    direction=None,
    sentence="classified right by the model's own zero-shot classifier",
)
def zero_shot_correct(answers: Answers) -> int:
    return int(answers.right(answers.zero_shot).sum())


@measure(
    title="Negative flips",
    unit="images",
    direction="lower",
    sentence="right on the source and wrong on the target",
)
def negative_flips(answers: Answers) -> int | None:
    if answers.source is None:
        return None
    return int((answers.right(answers.source) & ~answers.right(answers.predictions)).sum())


@measure(
    title="Positive flips",
    unit="images",
    direction="higher",
    sentence="wrong on the source and right on the target",
)
def positive_flips(answers: Answers) -> int | None:
    if answers.source is None:
        return None
    return int((~answers.right(answers.source) & answers.right(answers.predictions)).sum())


@measure(
    title="Inconsistent errors",
    unit="images",
    direction="lower",
    sentence="wrong on source and target, with another class each time",
)
def inconsistent_errors(answers: Answers) -> int | None:
    if answers.source is None:
        return None
    before, after = np.asarray(answers.source.classes), np.asarray(answers.predictions.classes)
    wrong = (before != answers.targets) & (after != answers.targets)
    return int((wrong & (before != after)).sum())


@measure(
    title="ECE",
    unit="percent",
    direction="lower",
    sentence="expected calibration error, over 15 bins of equal mass",
    mean_on=None,
)
def ece(answers: Answers) -> float:
    """The mean over bins, weighted by their images, of |accuracy − mean confidence|.

    The order of the images does not matter.
    """
    right = answers.right(answers.predictions)
    confidence = np.asarray(answers.predictions.confidence, dtype=np.float64)
    # Equal confidences are ordered by being right, so that no order of images shows.
    order = np.lexsort((right, confidence))
    rights = np.array_split(right[order].astype(float), BINS)
    confidences = np.array_split(confidence[order], BINS)
    gaps = [abs(r.sum() - c.sum()) for r, c in zip(rights, confidences, strict=True)]
    return round(100 * float(np.sum(gaps)) / len(right), 4)


def _percent(row: Columns, name: str) -> Figures:
    return 100 * row[name] / row["total"]


@measure(
    of="row",
    title="Accuracy",
    unit="percent",
    direction="higher",
    sentence="top-1 accuracy",
    mean_on=None,
)
def accuracy(row: Columns) -> Figures:
    return _percent(row, "correct")


@measure(
    of="row",
    title="Zero-shot",
    unit="percent",
    direction=None,
    sentence="top-1 accuracy of the model's own zero-shot classifier",
    mean_on=None,
)
def zero_shot(row: Columns) -> Figures:
    return _percent(row, "zero_shot_correct")


@measure(
    of="row",
    title="Gain",
    unit="points",
    direction="higher",
    sentence="accuracy minus that of the model's own zero-shot classifier",
    mean_on=None,
)
def gain(row: Columns) -> Figures:
    return row["accuracy"] - row["zero_shot"]


@measure(
    of="row",
    title="NFR",
    unit="percent",
    direction="lower",
    sentence="negative flip rate: right before, wrong now",
    mean_on=None,
)
def negative_flips_share(row: Columns) -> Figures:
    return _percent(row, "negative_flips")


@measure(
    of="row",
    title="PFR",
    unit="percent",
    direction="higher",
    sentence="positive flip rate: wrong before, right now",
    mean_on=None,
)
def positive_flips_share(row: Columns) -> Figures:
    return _percent(row, "positive_flips")


@measure(
    of="row",
    title="Inconsistent",
    unit="percent",
    direction="lower",
    sentence="wrong before and now, with another class each time",
    mean_on=None,
)
def inconsistent_errors_share(row: Columns) -> Figures:
    return _percent(row, "inconsistent_errors")
