"""What a module answers for every test image, and how its answers change in an upgrade.

Answers are kept beside the records, so that a target measured later is compared with the
source's own answers, image by image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from compatbench.errors import CompatbenchError
from compatbench.files.tensors import load_tensors, save_tensors

SCHEMA = "compatbench-predictions-1"
BINS = 15

# backbone, test set, and the hash of the backbone's weights and of the images
Where = tuple[str, str, str]


@dataclass(frozen=True)
class Predictions:
    """A module's answers on one backbone and one test set.

    Attributes:
        classes: predicted classes, int32 ``[images]``.
        confidence: the softmax probabilities of those classes, float32 ``[images]``. Logits
            are taken as the classifier gives them, scaled by the backbone's own logit scale.
    """

    classes: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Flips:
    """How answers differ between two models, in images (arXiv:2011.09161).

    Attributes:
        negative: right before, wrong after.
        positive: wrong before, right after.
        inconsistent: wrong before and after, with another class each time.
    """

    negative: int
    positive: int
    inconsistent: int


def harmonic_mean(a: float, b: float) -> float:
    """The harmonic mean of two accuracies in percent; 0 if both are 0."""
    # Not 2ab / (a + b): the product of two tiny accuracies would vanish.
    low, high = sorted((a, b))
    return 0.0 if high == 0 else min(2 * low / (1 + low / high), high)


def predict(logits: Tensor) -> Predictions:
    """The answers that logits ``[images, classes]`` give."""
    # The largest logit decides, as for the accuracy: probabilities may round to equal ones.
    classes = logits.argmax(-1).int().cpu()
    return Predictions(classes, logits.float().softmax(-1).amax(-1).cpu())


def count_flips(before: Predictions, after: Predictions, targets: Tensor) -> Flips:
    """Compares two models' answers for the same images with labels ``[images]``."""
    targets = targets.cpu()
    was, now = before.classes == targets, after.classes == targets
    differ = before.classes != after.classes
    return Flips(
        negative=int((was & ~now).sum()),
        positive=int((~was & now).sum()),
        inconsistent=int((~was & ~now & differ).sum()),
    )


def calibration_error(predictions: Predictions, targets: Tensor) -> float:
    """The expected calibration error in percent (arXiv:1706.04599), over 15 bins of equal mass.

    The mean over bins, weighted by their images, of the distance between accuracy and mean
    confidence. The order of the images does not matter.
    """
    right = (predictions.classes == targets.cpu()).numpy()
    confidence = predictions.confidence.double().numpy()
    # Equal confidences are ordered by being right, so that no order of images shows.
    order = np.lexsort((right, confidence))
    bins = zip(
        np.array_split(right[order].astype(float), BINS),
        np.array_split(confidence[order], BINS),
        strict=True,
    )
    gaps = [abs(r.sum() - c.sum()) for r, c in bins]
    return 100 * float(np.sum(gaps)) / len(right)


def write_predictions(path: Path, predictions: Mapping[Where, Predictions], key: str) -> None:
    """Keeps all answers of a cell in one file, which tells the cell's key.

    Raises:
        CompatbenchError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    wheres = sorted(predictions)
    for number, where in enumerate(wheres):
        tensors[f"{number}.classes"] = predictions[where].classes
        tensors[f"{number}.confidence"] = predictions[where].confidence
    save_tensors(path, tensors, SCHEMA, {"where": wheres, "key": key}, sync=False)


def read_predictions(path: Path, key: str) -> dict[Where, Predictions]:
    """The answers in a file that ``write_predictions`` wrote for the cell of this key.

    Raises:
        CompatbenchError: the file is missing, damaged, of another kind or of another cell.
    """
    tensors, about = load_tensors(path, SCHEMA, "predictions file")
    # Files of earlier versions do not tell.
    if about.get("key", key) != key:
        raise CompatbenchError(f"{path} is of another cell")
    return {
        (where[0], where[1], where[2]): Predictions(
            tensors[f"{number}.classes"], tensors[f"{number}.confidence"]
        )
        for number, where in enumerate(about["where"])
    }
