"""The page on several targets of a kind: its components, its answers, and what few targets say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from target_kinds import (
    EFFECTS,
    leave_out,
    list_collapsed,
    over_targets,
    read_gains,
    reversals,
    reversed_orders,
    share_of_effects,
    share_of_targets,
    spread_of_means,
    to_cells,
    variance_components,
)

from compatbench.errors import CompatbenchError


def draw_cells(shape: tuple[int, int, int], spreads: dict, seed: int) -> np.ndarray:
    """Draw sums of crossed random effects with these standard deviations."""
    rng = np.random.default_rng(seed)
    cells = np.zeros(shape)
    for effect, spread in spreads.items():
        sizes = [shape[axis] if axis in effect else 1 for axis in range(3)]
        cells = cells + spread * rng.normal(size=sizes)
    return cells


def test_variance_components_equal_those_of_statsmodels():
    cells = draw_cells((4, 3, 5), dict.fromkeys(EFFECTS, 1.0), 7)
    # From anova_lm's mean squares of ols("y ~ (C(m) + C(t) + C(u)) ** 2") in statsmodels 0.15.0.
    known = [0.010773, 0.223005, 1.907657, 0.165348, 0.786588, 1.924434, 0.694388]
    assert [*variance_components(cells).values()] == pytest.approx(known, abs=1e-6)


def test_variance_components_find_the_simulated_effects():
    spreads = dict(zip(EFFECTS, (3.0, 0.0, 2.0, 1.0, 2.0, 0.0, 1.0), strict=True))
    estimates = [variance_components(draw_cells((12, 8, 6), spreads, seed)) for seed in range(400)]
    for effect, spread in spreads.items():
        found = [each[effect] for each in estimates]
        assert np.mean(found) == pytest.approx(spread**2, abs=0.6)


def test_targets_have_no_share_if_they_are_equal_and_all_of_it_if_only_they_differ():
    equal = np.repeat(draw_cells((5, 8, 1), {(0,): 3.0, (1,): 2.0, (0, 1): 1.0}, 1), 6, axis=2)
    assert share_of_targets(equal) == pytest.approx(0, abs=1e-6)
    assert spread_of_means(equal) == pytest.approx(0, abs=1e-6)
    apart = np.broadcast_to(np.arange(6.0), (5, 8, 6))
    assert share_of_targets(apart) == pytest.approx(100)
    assert spread_of_means(apart) == pytest.approx(np.std(range(6), ddof=1))


def test_the_remainder_is_a_part_of_what_changes_with_the_target():
    cells = draw_cells((12, 8, 6), {(0,): 3.0, (0, 2): 1.0, (0, 1, 2): 2.0}, 3)
    remainder = share_of_effects(cells, [(0, 1, 2)])
    assert 10 < remainder < share_of_targets(cells) < 60
    assert share_of_effects(cells, EFFECTS) == pytest.approx(100)


def test_intervals_over_six_targets_contain_the_true_values():
    fixed = draw_cells((12, 8, 1), {(0,): 3.0, (1,): 3.0, (0, 1): 2.0}, 99)
    parts = variance_components(np.repeat(fixed, 2, axis=2))
    of_others = sum(part for effect, part in parts.items() if 2 not in effect)
    share = 100 * 3 / (3 + of_others)  # three effects of the target have a variance of 1
    contained = []
    for seed in range(100):
        cells = fixed + draw_cells((12, 8, 6), {(2,): 1.0, (0, 2): 1.0, (0, 1, 2): 1.0}, seed)
        spread = over_targets(cells, spread_of_means)
        changing = over_targets(cells, share_of_targets, 100)
        contained.append(
            (
                spread.low <= (2 + 1 / 8) ** 0.5 <= spread.high,
                changing.low <= share <= changing.high,
            )
        )
    assert (np.mean(contained, axis=0) > 0.85).all()


def test_equal_clear_orders_are_never_reversed_and_opposite_ones_always():
    rng = np.random.default_rng(2)
    cells = np.array([0.0, 5.0])[:, None, None] + rng.normal(size=(2, 8, 2)) / 10
    assert reversed_orders(cells) == 0
    cells[..., 1] *= -1
    assert reversed_orders(cells) == 100
    unclear = np.zeros((2, 8, 2)) + np.array([1.0, -1.0] * 4)[:, None]
    assert np.isnan(reversals(unclear))


def test_cells_have_the_gains_of_copied_modules_on_the_tasks_themselves():
    values = product(("coop", "gda", "zeroshot"), ("copied", "words"), "st", "st", "xyz")
    rows = pd.DataFrame(values, columns=["method", "transfer", "task", "test_set", "backbone"])
    rows["gain"] = range(len(rows))
    cells = to_cells(read_gains(rows)[["z", "x"]])
    assert cells.shape == (2, 2, 2)
    known = rows.query("method == 'gda' and transfer == 'copied' and task == test_set == 't'")
    assert cells[1, 1].tolist() == [*known.set_index("backbone")["gain"][["z", "x"]]]


def test_a_missing_gain_is_an_error():
    values = product(("coop", "gda"), ("copied",), "st", "xy")
    rows = pd.DataFrame(values, columns=["method", "transfer", "task", "backbone"])
    rows = rows.assign(test_set=rows["task"], gain=1.0)
    assert read_gains(rows).shape == (4, 2)
    place = "method 'gda' has no gain on task 't' and backbone 'y'"
    with pytest.raises(CompatbenchError, match=place):
        read_gains(rows.iloc[:-1])


def test_methods_that_collapse_on_a_kind_of_target_are_left_out():
    index = pd.MultiIndex.from_product(
        [("coop", "gda", "taskres"), ("s", "t")], names=["method", "task"]
    )
    gains = pd.DataFrame({"near": [-3.0, -2, 1, 2, 0, 1], "far": [-4.0, -3, -30, -20, 0, 1]}, index)
    collapsed = list_collapsed([gains[["near"]], gains[["far"]]])
    assert collapsed == ["gda"]
    cells = to_cells(leave_out(gains, collapsed))
    assert cells.shape == (2, 2, 2)
    assert cells[1, 0].tolist() == [0, 0]
