"""Calibration error with bins of equal width, as most papers compute it."""

import numpy as np

from compatbench.results.measures.measure_registry import Answers, measure

BINS = 15


@measure("ECE width", "percent", "lower")
def ece_width(answers: Answers) -> float:
    """Expected calibration error, over 15 bins of equal width.

    Guo et al., *On Calibration of Modern Neural Networks* (arXiv:1706.04599), equation 3: the mean
    over bins of confidence ``((m − 1)/15, m/15]``, weighted by their images, of
    |accuracy − mean confidence|.
    """
    right = answers.right(answers.predictions)
    confidence = np.asarray(answers.predictions.confidence, dtype=np.float64)
    # Bins contain their upper end, so a confidence of exactly 1/15 is in the first one.
    bins = np.ceil(BINS * confidence).astype(int) - 1
    bins = np.clip(bins, 0, BINS - 1)
    gaps = np.bincount(bins, right - confidence, minlength=BINS)
    return round(100 * float(np.abs(gaps).sum()) / len(right), 4)
