"""The share of images that get the same answer on source and target, right or wrong."""

import numpy as np

from compatbench.results.measures.measure_registry import Answers, measure


@measure("Agreement", "percent")
def agreement(answers: Answers) -> float | None:
    """Images with the same predicted class on source and target."""
    if answers.source is None:
        return None
    before = np.asarray(answers.source.classes)
    after = np.asarray(answers.predictions.classes)
    same = before == after
    return round(100 * float(same.mean()), 4)
