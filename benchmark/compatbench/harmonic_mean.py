"""H, the number by which methods are ranked."""

from __future__ import annotations

from typing import Any

import numpy as np


def harmonic_mean(source: Any, target: Any) -> Any:
    """Return H of two accuracies in percent, or of two arrays of them; 0 if both are 0."""
    # Not 2ab / (a + b): the product of two tiny accuracies would vanish.
    low = np.minimum(source, target)
    high = np.maximum(source, target)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(high == 0, 0.0, np.minimum(2 * low / (1 + low / high), high))
    return means if means.ndim else float(means)
