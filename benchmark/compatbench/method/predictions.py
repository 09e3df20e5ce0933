"""Predictions: the class and the confidence that a classifier returns for each image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """A module's predictions on one backbone and one test set."""

    classes: Tensor  # predicted class of each image, int32 [images]
    # Softmax probabilities of these classes, float32 [images], rounded to the half precision of
    # the files. The classifier has scaled the logits by the backbone's own logit scale.
    confidence: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "confidence", self.confidence.half().float())


def predict(logits: Tensor) -> Predictions:
    """Return the predictions of logits ``[images, classes]``."""
    # The largest logit decides: probabilities may round to equal ones.
    classes = logits.argmax(-1)
    confidence = logits.float().softmax(-1).amax(-1)
    return Predictions(classes.int().cpu(), confidence.cpu())
