"""How often source and target give the same answer, right or wrong."""

import numpy as np

from compatbench.results.measures.registry import Answers, measure


@measure("Agreement", "percent")
def agreement(answers: Answers) -> float | None:
    """Images with the same predicted class on source and target."""
    if answers.source is None:
        return None
    same = np.asarray(answers.source.classes) == np.asarray(answers.predictions.classes)
    return round(100 * float(same.mean()), 4)
