"""The rotation that texts determine: recovered where there is one, optimal where there is none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_matrices import draw, orthonormal
from scipy.spatial import procrustes
from torch import Tensor

from compatbench.backbone.joint_maps import fit_rotation

sizes = st.integers(2, 9)
seeds = st.integers(0, 10_000)


@settings(deadline=None, max_examples=40)
@given(source=sizes, extra=st.integers(0, 5), seed=seeds)
def test_a_turn_into_as_wide_or_a_wider_space_is_found_exactly(
    source: int, extra: int, seed: int
) -> None:
    features, shift = draw(40, source, seed=seed), draw(1, source + extra, seed=seed + 1)
    turn = orthonormal(source, source + extra, seed + 2)
    found = fit_rotation(features, features @ turn + shift)
    assert torch.allclose(found.rotation, turn, atol=1e-6)
    assert found.residual < 1e-9
    assert found.rank == source
    assert torch.allclose(found.source_mean @ turn + shift[0], found.target_mean, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(source=sizes, target=sizes, seed=seeds)
def test_the_rotation_is_semi_orthogonal_and_no_other_does_better(
    source: int, target: int, seed: int
) -> None:
    a, b = draw(30, source, seed=seed), draw(30, target, seed=seed + 1)
    r = fit_rotation(a, b).rotation
    gram = r @ r.T if source <= target else r.T @ r
    assert torch.allclose(gram, torch.eye(min(source, target)).double(), atol=1e-9)

    def gained(rotation: Tensor) -> float:
        return float((((a - a.mean(0)) @ rotation) * (b - b.mean(0))).sum())

    best = gained(r)
    for other in range(20):
        assert gained(orthonormal(source, target, seed + other + 2)) <= best + 1e-9


@given(seed=seeds)
def test_the_residual_is_scipys_disparity_and_a_narrower_side_counts_as_padded(seed: int) -> None:
    a, b = draw(8, 3, seed=seed), draw(8, 3, seed=seed + 1)
    assert fit_rotation(a, b).residual == pytest.approx(procrustes(a.numpy(), b.numpy())[2])
    padded = torch.nn.functional.pad(a, (0, 2))
    wider = draw(8, 5, seed=seed + 2)
    assert fit_rotation(a, wider).residual == pytest.approx(fit_rotation(padded, wider).residual)


def test_too_few_texts_say_so_and_leave_the_same_rotation_every_time() -> None:
    a, b = draw(4, 6, seed=5), draw(4, 6, seed=6)
    found = fit_rotation(a, b)
    assert found.rank == 3
    assert torch.equal(found.rotation, fit_rotation(a, b).rotation)
    assert torch.allclose(found.rotation @ found.rotation.T, torch.eye(6).double(), atol=1e-9)


def test_what_determines_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="same features"):
        fit_rotation(draw(5, 3, seed=1), torch.ones(5, 3))
