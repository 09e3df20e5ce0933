"""Choose how an imported file is read, where the file does not say: by its answers to images.

A file of CoOp does not contain the position of the class name, and one of a linear head does not
say whether its features were normalised. Each reading is measured on the model that the module was
trained on. The first one stands unless another is more accurate, and significantly so or with
significantly better confidences (log loss): logits of the wrong size give nearly the same classes,
but absurd confidences. Without a higher accuracy, confidences decide nothing: modules that learned
from few images are far too sure of themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.engine.single_module import Fitted
from compatbench.errors import CompatbenchWarning
from compatbench.messages import count
from compatbench.results.choice import judge_effect
from compatbench.results.differences import compare_images
from compatbench.results.estimate import Array, estimate
from compatbench.results.measures import Answers

# Confidences are stored in half precision; one that rounds to 1 counts as this far from it.
LEAST = 1e-4

Measure = Callable[[Mapping[str, Any]], Answers]  # from a method's settings to its answers


def settle_readings(fitted: Fitted, measure: Measure) -> Fitted:
    """Return the module's description with the settings that fit the images best.

    The description's ``imported["readings"]`` notes why each was chosen, and whether the images
    show that it is right. A setting that is not the usual one is a warning, too.

    Args:
        fitted: the description; its ``imported`` lists the settings that the file does not contain.
        measure: returns the answers of the module on its own model, with these settings.
    """
    imported = dict(fitted.imported or {})
    undecided: Mapping[str, list[Any]] = imported.pop("undecided", {})
    if not undecided:
        return fitted
    config = dict(fitted.config)
    readings = {}
    for name, values in undecided.items():
        answers = {}
        for value in values:
            answers[str(value)] = measure(config | {name: value})
        chosen, is_shown = _choose([*answers.values()])
        is_usual = values[chosen] == config.get(name)
        config[name] = values[chosen]
        shares = [f"{value} {each.accuracy:.1f} %" for value, each in answers.items()]
        images = count(len(answers[str(values[0])].labels), "image")
        why = "chosen on the images, because the file does not contain it"
        if not is_shown:
            why = (
                "the usual reading; the file does not contain it, and "
                f"{images} cannot show which reading is right"
            )
        note = f"{name}: {values[chosen]}, {why} (accuracy on {fitted.source}: {', '.join(shares)})"
        readings[name] = {"note": note, "is_shown": is_shown}
        if not is_usual:
            warnings.warn(f"{imported.get('file')}: {note}", CompatbenchWarning, stacklevel=3)
    imported["readings"] = readings
    return fitted.model_copy(update={"config": config, "imported": imported})


def _choose(answers: list[Answers]) -> tuple[int, bool]:
    """Return the number of the reading to take, and True if the images show that it is better."""
    right = [each.right(each.predictions) for each in answers]
    scores = {str(number): 100.0 * each for number, each in enumerate(right)}
    compare = compare_images(pd.DataFrame.from_dict(scores, "index"))
    best = max(range(len(answers)), key=lambda number: (right[number].mean(), -number))
    if best == 0:
        others = range(1, len(answers))
        return 0, all(judge_effect(compare("0", str(number))) == "gains" for number in others)
    if judge_effect(compare(str(best), "0")) == "gains":
        return best, True
    usual_loss = _log_loss(answers[0], right[0])
    best_loss = _log_loss(answers[best], right[best])
    better = estimate(usual_loss - best_loss)
    if better is not None and better.sign == 1:
        return best, True
    return 0, False


def _log_loss(answers: Answers, is_right: NDArray[np.bool_]) -> Array:
    """Return minus the log of the probability that each answer gave to being right or wrong."""
    confidence = answers.predictions.confidence.double().numpy().clip(LEAST, 1 - LEAST)
    return -np.log(np.where(is_right, confidence, 1 - confidence))
