"""Measures of change, CKA and intervals equal their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compatbench.extras.studies.frames import crossed_interval
from compatbench.extras.studies.similarity import linear_cka, mean_change

seeds = st.integers(0, 10_000)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(seed: int, size: int) -> Tensor:
    return torch.linalg.qr(draw(seed, size, size))[0]


def naive_hsic(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate by its definition: a mean over all sets of four inputs."""
    k = (x @ x.T).numpy()
    l = (y @ y.T).numpy()  # noqa: E741
    terms = []
    for i, j, q, r in itertools.permutations(range(len(x)), 4):
        terms.append(k[i, j] * l[i, j] + k[i, j] * l[q, r] - 2 * k[i, j] * l[i, q])
    return float(np.mean(terms))


def test_cka_equals_its_definition() -> None:
    x = draw(1, 7, 3) + 2
    y = draw(2, 7, 5) - 1
    y[:, 0] += 3 * x[:, 0]
    expected = naive_hsic(x, y) / (naive_hsic(x, x) * naive_hsic(y, y)) ** 0.5
    assert linear_cka(x, y) == pytest.approx(expected)


@given(seeds)
def test_cka_ignores_rotation_scale_shift_and_the_order_of_inputs(seed: int) -> None:
    x = draw(seed, 12, 4)
    y = draw(seed + 1, 12, 6)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    turned = 3 * x @ rotation(seed + 2, 4) + 5
    assert linear_cka(turned, y) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert linear_cka(x[order], y[order]) == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert linear_cka(x, turned) == pytest.approx(1)


@pytest.mark.parametrize(
    ("x", "y"), [(torch.ones(3, 2), torch.ones(3, 2)), (0.1 * torch.ones(9, 2), draw(1, 9, 2))]
)
def test_cka_of_few_inputs_or_of_a_constant_is_not_defined(x: Tensor, y: Tensor) -> None:
    assert linear_cka(x, y) is None
    assert linear_cka(y, x) is None


def test_mean_changes_equal_their_definitions() -> None:
    assert mean_change(torch.tensor([1.0, -3.0]), torch.tensor([2.0, -1.0])) == (1.5, 0.75)
    assert mean_change(torch.zeros(2), torch.ones(2)) == (1, float("inf"))


def test_methods_that_differ_widen_a_crossed_interval() -> None:
    rng = np.random.default_rng(4)
    datasets = rng.normal(0, 1, 10)

    def table(spread: float) -> np.ndarray:
        return spread * rng.normal(size=(6, 1)) + datasets + 0.1 * rng.normal(size=(6, 10))

    alike = crossed_interval([table(0.0), table(0.0)])
    unlike = crossed_interval([table(3.0), table(3.0)])
    # What is common to a dataset's column cancels.
    assert alike.high - alike.low < 0.3
    assert unlike.high - unlike.low > 1
