"""The share of the zero-shot answers that a module changes, for better or worse."""

import numpy as np

from compatbench.results.measures.measure_registry import Answers, measure


@measure("Changed", "percent")
def changed(answers: Answers) -> float:
    """Images with another predicted class than that of the model's own zero-shot classifier."""
    without = np.asarray(answers.zero_shot.classes)
    with_module = np.asarray(answers.predictions.classes)
    different = without != with_module
    return round(100 * float(different.mean()), 4)
