"""Which of several methods can be told apart over datasets: Friedman's test and Nemenyi's.

Demšar, *Statistical Comparisons of Classifiers over Multiple Data Sets*, JMLR 7 (2006).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

ALPHA = 0.05


@dataclass(frozen=True)
class RankTest:
    """Friedman's test of methods over datasets, and Nemenyi's critical difference.

    Attributes:
        ranks: average rank of each method, 1 for the best; methods that are equal on a
            dataset share the mean of their places.
        datasets: how many there are.
        statistic: Friedman's chi-squared, corrected for ties.
        p_value: that methods which do not differ give so large a statistic.
        critical_difference: average ranks that differ by less cannot be told apart.
    """

    ranks: tuple[float, ...]
    datasets: int
    statistic: float
    p_value: float
    critical_difference: float


def rank_test(scores: ArrayLike, alpha: float = ALPHA) -> RankTest:
    """Ranks methods on every dataset and tests whether they differ at all.

    Args:
        scores: ``[methods, datasets]``, higher is better, one column per family of datasets.

    Raises:
        ValueError: fewer than three methods, or fewer than two datasets.
    """
    from scipy.stats import friedmanchisquare

    table = np.asarray(scores, dtype=float)
    methods, datasets = table.shape
    if methods < 3 or datasets < 2:
        raise ValueError("the test needs three methods and two datasets, or more")
    if bool((table == table[0]).all()):
        statistic, p_value = 0.0, 1.0  # nothing but ties, for which the formula is 0 / 0
    else:
        statistic, p_value = map(float, friedmanchisquare(*table))
    return RankTest(
        tuple(average_ranks(table)),
        datasets,
        statistic,
        p_value,
        critical_difference(methods, datasets, alpha),
    )


def average_ranks(scores: ArrayLike) -> list[float]:
    """The mean place of each method over datasets, of scores ``[methods, datasets]``."""
    from scipy.stats import rankdata

    return rankdata(-np.asarray(scores, dtype=float), axis=0).mean(axis=1).tolist()


def critical_difference(methods: int, datasets: int, alpha: float = ALPHA) -> float:
    """Nemenyi's: q_α · √(k (k + 1) / 6N), with q_α the studentised range over √2."""
    from scipy.stats import studentized_range

    quantile = float(studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    return quantile * math.sqrt(methods * (methods + 1) / (6 * datasets))


def rank_cliques(ranks: Sequence[float], difference: float) -> list[list[int]]:
    """The largest groups of two or more methods whose ranks differ by less than ``difference``.

    These are the bars of a critical-difference diagram; unlike tied groups they overlap.

    Returns:
        The methods of each group, best first; groups from best to worst.
    """
    order = sorted(range(len(ranks)), key=lambda i: (ranks[i], i))
    cliques: list[list[int]] = []
    reached = 0
    for start in range(len(order)):
        end = start
        while end < len(order) and ranks[order[end]] - ranks[order[start]] < difference:
            end += 1
        if end > reached and end - start > 1:
            cliques.append(order[start:end])
        reached = max(reached, end)
    return cliques
