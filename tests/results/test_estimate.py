"""Intervals against scipy, against what is known of them, and by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compatbench.results.estimate import (
    average_units,
    estimate,
    mean,
    ratio_of_means,
)

RNG = np.random.default_rng(2)
BELOW = RNG.normal(8, 2, 30)
ABOVE = BELOW * 0.5 + RNG.normal(0, 1, 30)


def test_the_interval_of_a_ratio_equals_that_of_scipy() -> None:
    def theirs(above, below, axis):
        return above.mean(axis) / below.mean(axis)

    found = estimate({"a": ABOVE, "b": BELOW}, statistic=ratio_of_means)
    # As wide as Student's, of a bootstrap whose variance is that of the sample.
    level = 1 - 2 * stats.norm.sf(stats.t.ppf(0.975, 29) * np.sqrt(30 / 29))
    same = dict(paired=True, method="percentile", confidence_level=level, random_state=1)
    expected = stats.bootstrap((ABOVE, BELOW), theirs, **same)
    assert found.value == pytest.approx(theirs(ABOVE, BELOW, axis=0))
    bounds = [*expected.confidence_interval]
    assert [found.low, found.high] == pytest.approx(bounds, abs=0.01)


def test_rows_of_a_unit_are_averaged_and_units_are_drawn() -> None:
    rows = [("a", 1, 10.0), ("b", 1, 30.0), ("a", 2, 20.0), ("b", 2, 50.0)]
    frame = pd.DataFrame(rows, columns=["task", "seed", "gain"])
    assert average_units(frame[["task", "gain"]], "task")["gain"].tolist() == [15, 40]
    found = estimate(frame[["task", "gain"]], "task")
    assert found == estimate([15, 40])
    assert (found.value, found.units) == (27.5, 2)
    # Every row a unit of its own is another question.
    assert estimate(frame["gain"]) != found


@pytest.mark.parametrize(
    ("figures", "statistic"),
    [
        ([], mean),
        ([1.0, np.nan], mean),
        (pd.DataFrame({"a": [], "b": []}), ratio_of_means),
        ({"a": [1.0, 2.0], "b": [0.0, 0.0]}, ratio_of_means),
    ],
)
def test_missing_numbers_and_undefined_statistics_have_no_estimate(figures, statistic) -> None:
    assert estimate(figures, statistic=statistic) is None


def test_the_interval_of_a_mean_equals_that_of_scipy() -> None:
    found = estimate(BELOW)
    expected = stats.ttest_1samp(BELOW, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@given(st.lists(st.floats(-100, 100).map(lambda x: round(x, 2)), min_size=2, max_size=12))
def test_an_interval_holds_its_mean_and_decides_with_six_units(values: list[float]) -> None:
    found = estimate(values)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found.decides == (len(values) >= 6)
    assert found.sign == 0 or found.decides
