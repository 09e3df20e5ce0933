"""Measures of change and intervals beside scipy and their definitions, and what must not matter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from compatbench.extras.studies.frames import crossed_interval, spearman_interval
from compatbench.extras.studies.similarity import (
    linear_cka,
    mean_change,
    mean_cosine,
    modality_gap,
    neighbour_overlap,
)

seeds = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, size: int) -> Tensor:
    return torch.linalg.qr(draw(seed, size, size))[0]


def naive_hsic(x: Tensor, y: Tensor) -> float:
    """The mean over all four different inputs: what the unbiased estimate estimates with."""
    k, l = (x @ x.T).numpy(), (y @ y.T).numpy()  # noqa: E741
    terms = [
        k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q]
        for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    return float(np.mean(terms))


def test_cka_is_that_of_the_unbiased_estimate() -> None:
    x, y = draw(1, 7, 3) + 2, draw(2, 7, 5) - 1
    y[:, 0] += 3 * x[:, 0]
    expected = naive_hsic(x, y) / (naive_hsic(x, x) * naive_hsic(y, y)) ** 0.5
    assert linear_cka(x, y) == pytest.approx(expected)


@given(seeds)
def test_cka_sees_no_rotation_scale_or_shift_and_no_order_of_inputs(seed: int) -> None:
    x, y = draw(seed, 12, 4), draw(seed + 1, 12, 6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    turned = 3 * x @ rotation(seed + 2, 4) + 5
    assert linear_cka(turned, y) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert linear_cka(x[order], y[order]) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert linear_cka(x, turned) == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y"), [(torch.ones(3, 2), torch.ones(3, 2)), (0.1 * torch.ones(9, 2), draw(1, 9, 2))]
)
def test_cka_of_too_little_or_of_a_constant_is_not_defined(x: Tensor, y: Tensor) -> None:
    assert linear_cka(x, y) is None
    assert linear_cka(y, x) is None


@given(seeds, st.integers(1, 6))
def test_the_overlap_is_that_of_sets_of_neighbours(seed: int, count: int) -> None:
    x, y = draw(seed, 8, 3), draw(seed + 1, 8, 3)

    def nearest(z: Tensor, i: int) -> set[int]:
        others = [j for j in range(8) if j != i]
        return set(sorted(others, key=lambda j: -float(F.cosine_similarity(z[i], z[j], 0)))[:count])

    expected = np.mean([len(nearest(x, i) & nearest(y, i)) / count for i in range(8)])
    assert neighbour_overlap(x, y, count) == pytest.approx(expected)
    assert neighbour_overlap(x, 2 * x @ rotation(seed, 3), count) == 1


def test_the_plain_figures_are_those_of_their_definitions() -> None:
    assert mean_change(torch.tensor([1.0, -3.0]), torch.tensor([2.0, -1.0])) == (1.5, 0.75)
    assert mean_change(torch.zeros(2), torch.ones(2)) == (1, float("inf"))
    assert mean_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])) == 24 / 25
    assert mean_cosine(torch.ones(2, 3), torch.ones(2, 4)) is None
    images, texts = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[-1.0, 0.0]])
    assert modality_gap(images, texts) == pytest.approx((1.5**2 + 0.5**2) ** 0.5)
    x = draw(1, 9, 2)
    # Of fewer rows than neighbours all others are taken.
    assert neighbour_overlap(x, draw(2, 9, 2), 20) == 1
    assert neighbour_overlap(x[:1], x[:1], 5) is None


def test_a_correlation_is_that_of_scipy_where_it_is_defined() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(8, 2, 30).round()  # with ties
    y = (x * 0.5 + rng.normal(0, 1, 30)).round()
    found = spearman_interval(x, y)
    assert found is not None
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high
    for few, constant in (([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])):
        assert spearman_interval(few, constant) is None


def test_methods_that_differ_widen_a_crossed_interval() -> None:
    rng = np.random.default_rng(4)
    datasets = rng.normal(0, 1, 10)

    def table(spread: float) -> np.ndarray:
        return spread * rng.normal(size=(6, 1)) + datasets + 0.1 * rng.normal(size=(6, 10))

    alike = crossed_interval([table(0.0), table(0.0)])
    unlike = crossed_interval([table(3.0), table(3.0)])
    # What is common to a dataset's column cancels.
    assert alike.high - alike.low < 0.2
    assert unlike.high - unlike.low > 1
