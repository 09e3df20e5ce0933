"""The simulation of docs/protocol.md finds what was put in."""

from __future__ import annotations

import numpy as np
import protocol_page
import pytest


def make_methods(step: float, noise: float) -> np.ndarray:
    """Return H of methods that are apart by equal steps, ``[methods, tasks, seeds]``."""
    rng = np.random.default_rng(5)
    means = 50 + step * np.arange(8)[:, None, None]
    by_task = noise * rng.normal(size=(8, 8, 1))
    return means + by_task + 0.1 * noise * rng.normal(size=(8, 8, 3))


def test_large_differences_are_found_and_small_ones_are_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(protocol_page, "PAIRS", 200)
    power = protocol_page.measure_power(make_methods(step=1.0, noise=1.0))
    missed = [row["missed"] for row in power]
    assert missed == sorted(missed, reverse=True)
    assert missed[0] > 0.5
    assert missed[-1] < 0.05
    assert all(row["missed_in_ranking"] >= row["missed"] for row in power)
    assert sum(row["pairs"] for row in power) <= 8 * 7 / 2


def test_the_spread_can_be_that_of_pairs_of_one_size() -> None:
    h = make_methods(step=2.0, noise=0.5)
    every = protocol_page.measure_spread(h)
    near = protocol_page.measure_spread(h, (1, 3))
    assert len(every.of_tasks) == 28
    assert len(near.of_tasks) == 7  # neighbours
