"""Intervals against scipy, against what is known of them, and under what must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compatbench.results.bootstrap import (
    Interval,
    crossed_interval,
    draw_resamples,
    family_means,
    mean_interval,
    ratio_interval,
    spearman_interval,
)

figures = st.lists(st.floats(-100, 100).map(lambda x: round(x, 2)), min_size=2, max_size=12)


def test_the_mean_has_the_interval_that_scipy_gives() -> None:
    values = np.random.default_rng(1).normal(3, 2, 30)
    found = mean_interval(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", random_state=1
    ).confidence_interval
    assert found.value == values.mean()
    assert found.low == pytest.approx(theirs.low, abs=0.05)
    assert found.high == pytest.approx(theirs.high, abs=0.05)


def test_a_correlation_is_scipys_and_so_is_its_interval() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=40).round(1)  # with ties
    y = (0.5 * x + rng.normal(size=40)).round(1)
    found = spearman_interval(x, y)
    assert found is not None
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        n_resamples=2000,
        paired=True,
        vectorized=False,
        method="percentile",
        random_state=1,
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.05)
    assert found.high == pytest.approx(theirs.high, abs=0.05)


def test_an_interval_over_eight_datasets_holds_the_mean_nine_times_in_ten() -> None:
    rng = np.random.default_rng(3)
    intervals = [mean_interval(rng.normal(size=8)) for _ in range(500)]
    share = np.mean([one.low <= 0 <= one.high for one in intervals])
    assert 0.86 < share < 0.94


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])]
)
def test_a_correlation_that_is_not_defined_is_none(x: list[int], y: list[int]) -> None:
    assert spearman_interval(x, y) is None


@given(figures)
def test_an_interval_holds_its_mean_and_lies_among_the_values(values: list[float]) -> None:
    found = mean_interval(values)
    assert min(values) - 1e-9 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= max(values) + 1e-9


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=10))
def test_a_correlation_knows_order_only_and_turns_with_it(pairs: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman_interval(x, y)
    curved = spearman_interval([math.exp(a / 3) for a in x], y)
    turned = spearman_interval(x, [-b for b in y])
    if found is None:
        assert curved is None
        assert turned is None
        return
    assert curved is not None
    assert turned is not None
    assert (curved.value, curved.low, curved.high) == pytest.approx(
        (found.value, found.low, found.high)
    )
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low), abs=1e-9
    )


def test_one_unit_says_nothing_of_chance() -> None:
    found = mean_interval([5.0])
    assert (found.value, found.sign, found.bounded) == (5.0, 0, False)


@pytest.mark.parametrize(
    ("interval", "sign"),
    [(Interval(2, 1, 3), 1), (Interval(-2, -3, -1), -1), (Interval(1, -1, 3), 0)],
)
def test_the_sign_is_that_of_the_whole_interval(interval: Interval, sign: int) -> None:
    assert interval.sign == sign


def test_resamples_are_the_same_in_every_run_and_reach_every_unit() -> None:
    draws = draw_resamples(5, 1000)
    assert (draws == draw_resamples(5, 1000)).all()
    counts = np.bincount(draws.ravel(), minlength=5) / draws.size
    assert np.abs(counts - 0.2).max() < 0.02


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


def test_a_family_counts_once() -> None:
    accuracies = {"imagenet": 70.0, "v2": 60.0, "sketch": 50.0, "pets": 90.0}
    assert family_means(accuracies, {"v2": "imagenet", "sketch": "imagenet"}) == {
        "imagenet": 60.0,
        "pets": 90.0,
    }


def test_a_ratio_of_means_has_the_interval_that_scipy_gives() -> None:
    rng = np.random.default_rng(4)
    below = rng.normal(8, 2, 30)
    above = below * 0.5 + rng.normal(0, 1, 30)
    found = ratio_interval(above, below)
    assert found is not None
    theirs = stats.bootstrap(
        (above, below),
        lambda a, b, axis=-1: a.mean(axis=axis) / b.mean(axis=axis),
        n_resamples=20000,
        paired=True,
        method="percentile",
        random_state=1,
    ).confidence_interval
    assert found.value == above.mean() / below.mean()
    assert found.low == pytest.approx(theirs.low, abs=0.01)
    assert found.high == pytest.approx(theirs.high, abs=0.01)


@pytest.mark.parametrize("below", [[5.0], [3.0, -2.0], [0.0, 0.0], [-1.0, -2.0], [4.0, 0.0]])
def test_there_is_no_ratio_to_a_mean_that_is_not_clearly_positive(below: list[float]) -> None:
    assert ratio_interval([1.0] * len(below), below) is None


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: mean_interval([]), "one or more"),
        (lambda: spearman_interval([1, 2, 3], [1, 2]), "as many"),
        (lambda: ratio_interval([1.0, 2.0], [1.0]), "as many"),
    ],
)
def test_figures_that_are_missing_or_do_not_pair_are_refused(
    compute: Callable[[], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compute()
