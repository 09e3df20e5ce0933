"""Rank tests against scipy, and on the worked example of Demšar (2006), section 3.2.2."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from compatbench.results.rank_tests import (
    average_ranks,
    critical_difference,
    rank_cliques,
    rank_test,
)

# Table 6 there: area under the curve of four variants of C4.5 on fourteen data sets. Two
# figures of the last row but one are printed alike, but were ranked before rounding.
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.97501, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ]
).T

scores = st.integers(3, 6).flatmap(
    lambda methods: st.lists(
        st.lists(st.integers(0, 9), min_size=methods, max_size=methods), min_size=2, max_size=8
    )
)


def test_the_worked_example_gives_the_published_figures() -> None:
    found = rank_test(DEMSAR)
    assert found.ranks == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=5e-4)
    # The published 9.28 is without the correction for ties.
    k, n = DEMSAR.shape
    plain = 12 * n / (k * (k + 1)) * (sum(r * r for r in found.ranks) - k * (k + 1) ** 2 / 4)
    assert plain == pytest.approx(9.28, abs=5e-3)
    assert found.statistic == pytest.approx(stats.friedmanchisquare(*DEMSAR).statistic)
    assert found.statistic > plain
    assert found.p_value < 0.05
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=5e-3)


@pytest.mark.parametrize(
    ("datasets", "by_methods"),
    [
        (15, {3: 0.86, 5: 1.58, 7: 2.33, 10: 3.50}),
        (11, {3: 1.00, 5: 1.84, 7: 2.72, 10: 4.08}),
    ],
)
def test_critical_differences_are_the_known_ones(
    datasets: int, by_methods: dict[int, float]
) -> None:
    found = {k: critical_difference(k, datasets) for k in by_methods}
    assert found == pytest.approx(by_methods, abs=6e-3)


@given(scores)
def test_ranks_are_shared_out_whatever_the_scores(table: list[list[int]]) -> None:
    by_method = np.array(table).T
    ranks = average_ranks(by_method)
    methods = len(by_method)
    assert sum(ranks) == pytest.approx(methods * (methods + 1) / 2)
    assert average_ranks(by_method * 3 + 1) == pytest.approx(ranks)
    assert average_ranks(-by_method) == pytest.approx([methods + 1 - rank for rank in ranks])


@given(scores)
def test_the_test_knows_no_order_of_methods_or_datasets(table: list[list[int]]) -> None:
    by_method = np.array(table).T
    found, turned = rank_test(by_method), rank_test(by_method[::-1, ::-1])
    assert turned.statistic == pytest.approx(found.statistic)
    assert turned.p_value == pytest.approx(found.p_value)
    assert 0 <= found.p_value <= 1
    assert turned.ranks == pytest.approx(found.ranks[::-1])


def test_methods_that_never_differ_are_never_told_apart() -> None:
    found = rank_test(np.full((4, 6), 50.0))
    assert (found.statistic, found.p_value) == (0.0, 1.0)
    assert rank_cliques(found.ranks, found.critical_difference) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("shape", [(2, 5), (3, 1)])
def test_too_little_to_test_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="three methods and two datasets"):
        rank_test(np.ones(shape))


def test_cliques_are_the_largest_and_overlap() -> None:
    assert rank_cliques([3.0, 1.0, 2.2, 5.0], difference=1.5) == [[1, 2], [2, 0]]
    assert rank_cliques([1.0, 2.0, 3.0], difference=0.5) == []
    # As near as the difference is apart, as Nemenyi has it.
    assert rank_cliques([1.0, 2.0], difference=1.0) == []
