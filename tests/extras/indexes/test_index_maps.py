"""Maps of stored vectors into a new model's space, beside their formulas."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from random_matrices import draw
from scipy.linalg import orthogonal_procrustes

from compatbench.extras.indexes.index_maps import (
    PAIRS,
    WAYS,
    FeatureMap,
    choose_numbers,
    fit_map,
    judge_map,
)


def unit(rows: int, width: int, seed: int) -> NDArray[np.float64]:
    drawn = draw(rows, width, seed=seed).numpy()
    return drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)


SOURCE, TARGET = unit(60, 6, 1), unit(60, 6, 2)
WORDS = unit(80, 6, 3), unit(80, 6, 4)


def naive(way: str) -> tuple[np.ndarray, np.ndarray]:
    """M ``[e_s, e_t]`` and b of a way."""
    s, t = SOURCE, TARGET
    a, b = (words - words.mean(0) for words in WORDS)
    turn, zero = orthogonal_procrustes(s, t)[0], np.zeros(6)
    if way == "words":
        return orthogonal_procrustes(a, b)[0], zero
    if way == "images":
        return turn, zero
    if way == "low-rank":  # six directions are all that the rank of the transfer allows
        left = t - s @ turn
        x, y = s - s.mean(0), left - left.mean(0)
        change = np.linalg.inv(x.T @ x + 60 * 0.01 * np.eye(6)) @ x.T @ y
        return turn + change, left.mean(0) - s.mean(0) @ change
    prior = orthogonal_procrustes(a, b)[0]

    def ridge(s: np.ndarray, t: np.ndarray, damping: float) -> np.ndarray:
        size = len(s) * damping
        return np.linalg.inv(s.T @ s + size * np.eye(6)) @ (s.T @ t + size * prior)

    dampings = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
    errors = [((s[:15] @ ridge(s[15:], t[15:], one) - t[:15]) ** 2).sum() for one in dampings]
    return ridge(s, t, dampings[int(np.argmin(errors))]), zero


@pytest.mark.parametrize("way", [way for way in WAYS if way != "copied"])
def test_a_map_is_its_formula_and_vectors_keep_their_length(way: str) -> None:
    matrix, bias = naive(way)
    found = fit_map(way, WORDS, (3 * SOURCE, 0.5 * TARGET))  # lengths of the pairs do not count
    vectors = np.concatenate([7 * unit(9, 6, 5), np.zeros((1, 6))])
    wanted = vectors / 7 @ matrix + bias
    wanted[:-1] *= 7 / np.linalg.norm(wanted[:-1], axis=1, keepdims=True)
    wanted[-1] = 0
    assert np.abs(found(vectors) - wanted).max() <= 1e-9


def test_a_turned_model_is_found_again_and_judged_so() -> None:
    turn = np.linalg.qr(unit(6, 6, 7)).Q
    images, words = (SOURCE, SOURCE @ turn), (WORDS[0], WORDS[0] @ turn)
    for way in WAYS.keys() - {"copied"}:
        judged = judge_map(way, words, images)
        assert judged["cosine"] > 0.999
        assert 0 <= judged["residual"] < 2e-3


def test_a_map_is_judged_on_what_it_was_not_fitted_on() -> None:
    s, t = SOURCE[:15], TARGET[:15]
    mapped = fit_map("images", None, (SOURCE[15:], TARGET[15:]))(s)
    left = ((mapped - t) ** 2).sum() / ((t - t.mean(0)) ** 2).sum()
    judged = judge_map("images", None, (SOURCE, TARGET))
    assert judged["residual"] == pytest.approx(left, abs=1e-12)
    assert judged["cosine"] == pytest.approx((mapped * t).sum(1).mean(), abs=1e-12)


def test_other_widths_are_mapped_both_ways() -> None:
    for width in (4, 9):
        images, words = (SOURCE, unit(60, width, 8)), (WORDS[0], unit(80, width, 9))
        for way in WAYS.keys() - {"copied"}:
            found = fit_map(way, words, images)(SOURCE)
            assert found.shape == (60, width)
            assert np.allclose(np.linalg.norm(found, axis=-1), 1)
            # The fewest images are enough.
            assert judge_map(way, words, (SOURCE[:8], images[1][:8]))["residual"] > 0


def test_of_the_usual_numbers_of_pairs_as_many_are_taken_as_there_are() -> None:
    assert choose_numbers(PAIRS, [1], 5000) == [64, 256, 1024]
    assert choose_numbers(PAIRS, [1], 300) == [64, 256, 300]
    assert choose_numbers(PAIRS, [1], 5) == []


def test_float32_is_computed_in_float32() -> None:
    found = FeatureMap(np.eye(6), np.ones(6))
    assert found(SOURCE.astype(np.float32)).dtype == np.float32
