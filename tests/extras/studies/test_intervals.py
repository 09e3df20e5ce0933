"""Intervals of correlations and of crossed samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from compatbench.extras.studies.frames import crossed_interval, spearman_interval


def test_a_correlation_is_that_of_scipy() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(8, 2, 30).round()  # with ties
    y = (x * 0.5 + rng.normal(0, 1, 30)).round()
    found = spearman_interval(x, y)
    bounds = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        method="percentile",
        random_state=1,
    ).confidence_interval
    assert found is not None
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), abs=0.05)


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])]
)
def test_a_correlation_that_is_not_defined_is_none(x: list[int], y: list[int]) -> None:
    assert spearman_interval(x, y) is None


def test_methods_that_differ_widen_a_crossed_interval() -> None:
    rng = np.random.default_rng(4)
    datasets = rng.normal(0, 1, 10)

    def table(spread: float) -> np.ndarray:
        return spread * rng.normal(size=(6, 1)) + datasets + 0.1 * rng.normal(size=(6, 10))

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return a.mean() - b.mean()

    alike = crossed_interval([table(0.0), table(0.0)], difference)
    unlike = crossed_interval([table(3.0), table(3.0)], difference)
    # What is common to a dataset's column cancels.
    assert alike.high - alike.low < 0.2
    assert unlike.high - unlike.low > 1
