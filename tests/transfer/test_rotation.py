"""The rotation that texts determine: recovered where there is one, optimal where there is none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_matrices import draw, orthonormal
from torch import Tensor

from compatbench.transfer.rotation import fit_rotation

sizes = st.integers(2, 9)
seeds = st.integers(0, 10_000)


@settings(deadline=None, max_examples=40)
@given(source=sizes, extra=st.integers(0, 5), seed=seeds)
def test_a_turn_into_as_wide_or_a_wider_space_is_found_exactly(
    source: int, extra: int, seed: int
) -> None:
    features, shift = draw(40, source, seed), draw(1, source + extra, seed + 1)
    turn = orthonormal(source, source + extra, seed + 2)
    found = fit_rotation(features, features @ turn + shift)
    assert torch.allclose(found.rotation, turn, atol=1e-6)
    assert found.residual < 1e-9
    assert found.rank == source
    assert found.determined
    moved = found.forward(features, centred=True)
    assert torch.allclose(moved, features @ turn + shift, atol=1e-6)
    assert torch.allclose(found.back(moved, centred=True), features, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(source=sizes, target=sizes, seed=seeds)
def test_the_rotation_is_semi_orthogonal_and_no_other_does_better(
    source: int, target: int, seed: int
) -> None:
    a, b = draw(30, source, seed), draw(30, target, seed + 1)
    w = torch.rand(30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    r = fit_rotation(a, b, w).rotation
    gram = r @ r.T if source <= target else r.T @ r
    assert torch.allclose(gram, torch.eye(min(source, target)).double(), atol=1e-9)
    mean_a, mean_b = (w @ a) / w.sum(), (w @ b) / w.sum()

    def gained(rotation: Tensor) -> float:
        return float((w[:, None] * ((a - mean_a) @ rotation) * (b - mean_b)).sum())

    best = gained(r)
    for other in range(20):
        assert gained(orthonormal(source, target, seed + other + 2)) <= best + 1e-9


def test_the_residual_is_what_rotation_and_scale_leave() -> None:
    a, b = draw(50, 4, 1), draw(50, 4, 2) + draw(50, 4, 1)
    found = fit_rotation(a, b)
    turned, centred = (a - a.mean(0)) @ found.rotation, b - b.mean(0)
    scale = float((turned * centred).sum() / turned.square().sum())
    left = float((scale * turned - centred).square().sum() / centred.square().sum())
    assert found.residual == pytest.approx(left, abs=1e-9)


def test_a_text_of_weight_two_counts_as_if_it_stood_there_twice() -> None:
    a, b = draw(20, 5, 3), draw(20, 5, 4)
    weights = torch.ones(20)
    weights[7] = 2
    twice = fit_rotation(torch.cat([a, a[7:8]]), torch.cat([b, b[7:8]]))
    weighted = fit_rotation(a, b, weights)
    assert torch.allclose(weighted.rotation, twice.rotation, atol=1e-9)
    assert torch.allclose(weighted.source_mean, twice.source_mean, atol=1e-9)


def test_too_few_texts_say_so_and_leave_the_same_rotation_every_time() -> None:
    a, b = draw(4, 6, 5), draw(4, 6, 6)
    found = fit_rotation(a, b)
    assert found.rank == 3
    assert not found.determined
    assert torch.equal(found.rotation, fit_rotation(a, b).rotation)
    assert torch.allclose(found.rotation @ found.rotation.T, torch.eye(6).double(), atol=1e-9)


@pytest.mark.parametrize(
    ("a", "b", "weights"),
    [
        (draw(5, 3, 1), draw(6, 3, 1), None),
        (draw(5, 3, 1), draw(5, 3, 1), torch.tensor([1.0, 1, 1, 1, -1])),
        (draw(5, 3, 1), draw(5, 3, 1), torch.zeros(5)),
        (draw(5, 3, 1), torch.ones(5, 3), None),
    ],
)
def test_what_determines_nothing_is_refused(a: Tensor, b: Tensor, weights: Tensor | None) -> None:
    with pytest.raises(ValueError, match=r"list|weights|same"):
        fit_rotation(a, b, weights)
