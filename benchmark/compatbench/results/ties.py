"""The one test for "best": what is first, what is tied with it, and how stable that is.

Candidates are compared with the one that has the highest mean, unit by unit: Student's paired test,
with Holm's correction for everything that is compared. Ranks tie a candidate with the best up to
the first that is significantly worse, claims take every candidate that is not, and ``choice``
applies the test among options of one cost at a time.
A unit is a task; for a module that was measured on fewer tasks than a verdict takes, it is an
image.

The best of many is best by luck as well. ``stability`` says how often it is: the share of units
that can be left out without another candidate taking its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

ALPHA = 0.05


def compare_with_best(scores: pd.DataFrame) -> pd.DataFrame:
    """Compare each candidate with the best, the highest mean first.

    Args:
        scores: the score of each candidate (index) on each unit (columns), in percent or points;
            no number may be missing.

    Returns:
        A row per candidate, in the order of the means: ``mean``; ``behind``, the mean difference
        from the best; ``p``, corrected for all that are compared (1 for the best itself);
        ``worse``, True if the difference is significant at 5 %.
    """
    means = scores.mean(axis="columns")
    order = means.sort_values(ascending=False, kind="stable").index
    table = scores.loc[order].to_numpy(dtype=float)
    p_values = [1.0, *holm(paired_test(table))]
    ordered = means.loc[order]
    frame = pd.DataFrame({"mean": ordered, "behind": ordered - ordered.iloc[0], "p": p_values})
    frame["worse"] = frame["p"] < ALPHA
    return frame


def count_tied(scores: pd.DataFrame) -> int:
    """Return how many candidates share the first place.

    It is shared with those that follow, up to the first that is significantly worse. The best is
    compared, not the neighbour, so that a chain of small steps is not one tie.
    """
    table = scores.to_numpy(dtype=float)
    order = np.argsort(-scores.mean(axis="columns").to_numpy(), kind="stable")
    p_values = holm(paired_test(table[order]))
    for tied, p_value in enumerate(p_values, 1):
        if p_value < ALPHA:
            return tied
    return len(table)


def first_place(scores: pd.DataFrame) -> list[object]:
    """Return the candidates that are tied for the first place, the highest mean first."""
    compared = compare_with_best(scores)
    return list(compared.index[: count_tied(scores)])


def first_places_left_out(scores: pd.DataFrame) -> list[list[object]]:
    """Return ``first_place`` with each unit left out in turn."""
    return [first_place(scores.drop(columns=[unit])) for unit in scores.columns]


def stability(scores: pd.DataFrame) -> float:
    """Return the share of units that can be left out and the first place is the same, 0 to 1.

    The same candidates must be tied for it.
    """
    first = set(first_place(scores))
    return float(np.mean([set(other) == first for other in first_places_left_out(scores)]))


def paired_test(scores: ArrayLike) -> list[float]:
    """Return p values of Student's paired test of the first row of ``[candidates, units]``.

    There is one for each other row. It is 1 where there is no difference, or only one unit.
    """
    from scipy.special import stdtr

    table = np.asarray(scores, dtype=float)
    differences = table[0] - table[1:]
    others, units = differences.shape
    if units == 1:
        return [1.0] * others
    errors = differences.std(axis=1, ddof=1) / math.sqrt(units)
    means = np.abs(differences.mean(axis=1))
    # Without an error the difference is the same on every unit: certain, or none at all.
    always = np.where(means > 0, 0.0, 1.0)
    statistics = np.divide(-means, errors, out=np.zeros(others), where=errors > 0)
    p_values = np.where(errors > 0, 2 * stdtr(units - 1, statistics), always)
    return p_values.tolist()


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm, 1979)."""
    corrected = [0.0] * len(p_values)
    least = 0.0
    smallest_first = sorted(range(len(p_values)), key=p_values.__getitem__)
    for done, index in enumerate(smallest_first):
        least = max(least, min(1.0, (len(p_values) - done) * p_values[index]))
        corrected[index] = least
    return corrected
