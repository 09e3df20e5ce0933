"""The page on several targets of a kind: its components, its answers, and what few targets say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from laws_kinds import (
    EFFECTS,
    Kind,
    over_targets,
    read_kinds,
    reversals,
    reversed_orders,
    share_of_targets,
    spread_of_means,
    variance_components,
)
from laws_page import TELLINGS, answer, show

from compatbench.data.cards import suite_cards


def draw_cells(shape: tuple[int, int, int], spreads: dict, seed: int) -> np.ndarray:
    """Sums of crossed random effects with these standard deviations."""
    rng = np.random.default_rng(seed)
    cells = np.zeros(shape)
    for effect, spread in spreads.items():
        sizes = [shape[axis] if axis in effect else 1 for axis in range(3)]
        cells = cells + spread * rng.normal(size=sizes)
    return cells


def make_kind(targets: int, cells: np.ndarray | None = None) -> Kind:
    if cells is None:
        cells = draw_cells((5, 8, targets), dict.fromkeys(EFFECTS, 1.0), 0)
    names = tuple(f"t{i}" for i in range(targets))
    tasks = tuple(f"task{i}" for i in range(8))
    return Kind("kind", tuple("abcde"), tasks, names, cells, -cells)


def test_components_are_those_of_the_analysis_of_variance():
    cells = draw_cells((4, 3, 5), dict.fromkeys(EFFECTS, 1.0), 7)
    # From anova_lm's mean squares of ols("y ~ (C(m) + C(t) + C(u)) ** 2") in statsmodels 0.15.0.
    known = [0.010773, 0.223005, 1.907657, 0.165348, 0.786588, 1.924434, 0.694388]
    assert [*variance_components(cells).values()] == pytest.approx(known, abs=1e-6)


def test_what_targets_share_is_nothing_where_they_are_equal_and_all_where_only_they_differ():
    equal = np.repeat(draw_cells((5, 8, 1), {(0,): 3.0, (1,): 2.0, (0, 1): 1.0}, 1), 6, axis=2)
    assert share_of_targets(equal) == pytest.approx(0, abs=1e-6)
    assert spread_of_means(equal) == pytest.approx(0, abs=1e-6)
    apart = np.broadcast_to(np.arange(6.0), (5, 8, 6))
    assert share_of_targets(apart) == pytest.approx(100)
    assert spread_of_means(apart) == pytest.approx(np.std(range(6), ddof=1))


def test_intervals_over_six_targets_hold_the_true_figures():
    fixed = draw_cells((12, 8, 1), {(0,): 3.0, (1,): 3.0, (0, 1): 2.0}, 99)
    parts = variance_components(np.repeat(fixed, 2, axis=2))
    share = 100 * 3 / (3 + sum(part for effect, part in parts.items() if 2 not in effect))
    held = []
    for seed in range(100):
        cells = fixed + draw_cells((12, 8, 6), {(2,): 1.0, (0, 2): 1.0, (0, 1, 2): 1.0}, seed)
        spread = over_targets(cells, spread_of_means)
        changing = over_targets(cells, share_of_targets, 100)
        spreads = spread.low <= (2 + 1 / 8) ** 0.5 <= spread.high
        held.append((spreads, changing.low <= share <= changing.high))
    assert (np.mean(held, axis=0) > 0.85).all()


def test_clear_orders_that_every_target_has_are_never_reversed_and_opposite_ones_always():
    rng = np.random.default_rng(2)
    cells = np.array([0.0, 5.0])[:, None, None] + rng.normal(size=(2, 8, 2)) / 10
    assert reversed_orders(cells) == 0
    cells[..., 1] *= -1
    assert reversed_orders(cells) == 100
    unclear = np.zeros((2, 8, 2)) + np.array([1.0, -1.0] * 4)[:, None]
    assert np.isnan(reversals(unclear))


def test_fewer_than_six_targets_answer_nothing():
    assert answer(make_kind(5)) == "cannot tell from 5 of the 6 targets."
    assert "(" not in show(make_kind(5), *next(iter(TELLINGS.values())))
    assert "points between targets" in answer(make_kind(6))


def test_a_target_without_the_rows_of_every_method_is_left_out():
    suite = suite_cards.read("mini-upgrades")
    names = sorted({name for path in suite.upgrades for name in path})
    rows = pd.DataFrame(
        [
            dict(method=m, transfer="copied", task=t, test_set=t, backbone=b, status="ok", gain=1.0)
            for m in ("coop", "gda", "zeroshot")
            for t in suite.tasks
            for b in names
        ]
    )
    last = suite.upgrades[0][-1]
    missing = (rows.method == "gda") & (rows.backbone == last) & (rows.task == suite.tasks[0])
    full, fewer = read_kinds(suite, rows), read_kinds(suite, rows[~missing])
    assert full[0].methods == ("coop", "gda")
    assert set(full[0].targets) - set(fewer[0].targets) == {last}
    assert (full[0].losses == 0).all()
