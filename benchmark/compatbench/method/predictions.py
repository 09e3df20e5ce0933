"""What a classifier answers for images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Predictions:
    """A module's answers on one backbone and one test set."""

    classes: Tensor  # predicted, int32 [images]
    # Their softmax probabilities, float32 [images], rounded to half precision, in which they are
    # kept. Logits are taken as the classifier gives them, scaled by the backbone's own logit scale.
    confidence: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "confidence", self.confidence.half().float())


def predict(logits: Tensor) -> Predictions:
    """Return the predictions that logits ``[images, classes]`` give."""
    # The largest logit decides, as for the accuracy: probabilities may round to equal ones.
    classes = logits.argmax(-1)
    return Predictions(classes.int().cpu(), logits.float().softmax(-1).amax(-1).cpu())
