"""How many of zero-shot's answers a module changes, for better or worse."""

import numpy as np

from compatbench.results.measures.registry import Answers, measure


@measure("Changed", "percent")
def changed(answers: Answers) -> float:
    """Images with another predicted class than that of the model's own zero-shot classifier."""
    other = np.asarray(answers.zero_shot.classes) != np.asarray(answers.predictions.classes)
    return round(100 * float(other.mean()), 4)
