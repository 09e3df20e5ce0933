"""Of methods that refuse images: how many are answered, and how often the answers are right."""

import numpy as np
from numpy.typing import NDArray

from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.measures.registry import Answers, Columns, add_mean, measure


@measure("Answered", "percent", rare=True)
def answered(answers: Answers) -> float | None:
    """Images that get an answer; no number where none is refused."""
    share = 100 * float(answers.answered.mean())
    return None if share == 100 else round(share, 4)


@measure("Precision", "percent", "higher", of="row")
def precision(row: Columns) -> NDArray[np.float64]:
    """Answers that are right, of the images that get one.

    0 if none does. Without a number for a method that refuses no image in any of these rows.
    """
    share = row["answered"]
    if np.isnan(share).all():
        return share
    # Stored with four decimals, which tell the number of images.
    count = np.rint(np.where(np.isnan(share), 100, share) * row["total"] / 100)
    return 100 * np.divide(row["correct"], count, out=np.zeros_like(count), where=count != 0)


@measure("F1", "percent", "higher", of="row")
def f1(row: Columns) -> NDArray[np.float64]:
    """Harmonic mean of precision and of recall, which is the share of all images that are right."""
    return harmonic_mean(row["precision"], row["accuracy"])


add_mean("precision", "precision", "target")
add_mean("f1", "f1", "target")
add_mean("source_precision", "precision", "source", "Source precision")
add_mean("source_f1", "f1", "source", "Source F1")
