"""Figures computed by hand."""

from __future__ import annotations

from math import isnan, nan
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import (
    COOP,
    TWO_BY_TWO,
    UPGRADE,
    ZEROSHOT,
    lines_of,
    make_method,
    make_pairs,
    make_row,
    make_suite,
    refuse,
)

from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.expected import Expected
from compatbench.results.ranking import rank_methods
from compatbench.results.rows import Row
from compatbench.results.upgrade_rows import mean_of_complete, pair_rows

# (task, seed) -> correct of 100 on source, on target.
COUNTS = {
    ("cats", 1): (60, 30),  # H 40
    ("dogs", 1): (80, 20),  # H 32
    ("cats", 2): (50, 50),  # H 50
    ("dogs", 2): (90, 45),  # H 60
}


def rank_one(rows: list[Row], **changes: object) -> dict[str, Any]:
    """Return the row of one method in its ranking, by hand checkable."""
    suite = make_suite(make_method(COOP, rows, **changes))
    [row] = rank_methods(suite, TWO_BY_TWO, [UPGRADE], 4).to_dict("records")
    return row


def by_task(rows: list[Row]) -> dict[str, float]:
    """Return H by task."""
    paired = pair_rows(make_suite(make_method(COOP, rows)), TWO_BY_TWO, UPGRADE, 4)
    return mean_of_complete(paired, ["task"], ["h"])["h"].to_dict()


@pytest.mark.parametrize(
    ("a", "b", "h"), [(60, 30, 40), (80, 20, 32), (50, 50, 50), (0, 0, 0), (0, 100, 0)]
)
def test_harmonic_mean_by_hand(a: float, b: float, h: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(h)


def test_h_is_taken_per_dataset_and_seed_then_averaged() -> None:
    row = rank_one(make_pairs(COUNTS))
    assert row["h"] == pytest.approx(45.5)  # seeds: 36 and 55
    assert row["h_std"] == pytest.approx(19 / 2**0.5)  # ddof = 1
    assert (row["state"], row["measured"], row["cells"]) == ("complete", 4, 4)
    # Zero-shot is 40 on the old model and 60 on the new one.
    found = [row[name] for name in ("source", "target", "gain", "source_gain")]
    assert found == pytest.approx([70, 36.25, -23.75, 30])
    assert by_task(make_pairs(COUNTS))["dogs"] == pytest.approx(46)


PAIRS = make_pairs(COUNTS)
LOST = PAIRS.index(make_row(50, task="cats", seed=2))
FAILED = make_row(None, status="failed", reason="RuntimeError: no", parameters=0)
REFUSED = lines_of(refuse(make_method(COOP, PAIRS), "sizes"))


@pytest.mark.parametrize(
    ("rows", "state", "coverage", "means"),
    [
        ([*PAIRS[:LOST], *PAIRS[LOST + 1 :]], "incomplete", (3, 4), [nan, 36.25]),
        ([*PAIRS[: LOST + 1], *PAIRS[LOST + 2 :]], "incomplete", (3, 4), [70, nan]),
        ([FAILED, *PAIRS[1:]], "incomplete", (3, 4), [nan, 36.25]),
        (REFUSED, "not transferable", (4, 4), [70, nan]),
    ],
)
def test_a_row_without_a_number_leaves_no_mean(
    rows: list[Row], state: str, coverage: tuple[int, int], means: list[float]
) -> None:
    row = rank_one(rows)
    assert (row["state"], (row["measured"], row["cells"])) == (state, coverage)
    found = [row[name] for name in ("h", "source", "target")]
    assert found == pytest.approx([nan, *means], nan_ok=True)
    assert isnan(by_task(rows)["cats"])
    assert isnan(by_task(rows)["dogs"]) == (rows is REFUSED)
    assert row["parameters"] == row["parameters_low"] == 8192
    reasons = (("sizes",), 4) if rows is REFUSED else ((), 0)
    assert (row["reasons"], row["not_attached"]) == reasons


def test_rows_that_the_suite_does_not_ask_for_are_ignored() -> None:
    rows = make_pairs(COUNTS)
    extra = make_pairs({("birds", 1): (1, 1), ("cats", 3): (1, 1)})
    extra += [make_row(1, shots=8), make_row(1, test_set="cats-sketch")]
    assert rank_one(rows + extra)["h"] == rank_one(rows)["h"]


def test_a_method_that_learns_nothing_has_one_seed_at_any_shots() -> None:
    figures = {("cats", 1): (40, 60), ("dogs", 1): (40, 60)}
    expected = Expected(("cats", "dogs"), (4, 16), (1, 2, 3), (("old", "new"),))
    suite = make_suite(make_method(ZEROSHOT, make_pairs(figures, method="zeroshot")))
    for shots in expected.shots:
        [row] = rank_methods(suite, expected, [UPGRADE], shots).to_dict("records")
        assert row["h"] == pytest.approx(48)
        assert isnan(row["h_std"])
        assert (row["measured"], row["cells"]) == (2, 2)


def test_costs_are_shown_only_if_all_cells_have_them() -> None:
    rows = make_pairs(COUNTS)
    costs = make_method(COOP, rows).costs.astype({"evaluate_seconds": float})
    new = costs["backbone"] == "new"
    costs.loc[new, "evaluate_seconds"] = 0.2
    costs.loc[new, "peak_memory"] = [1001, 1003, 1005, 1007]
    names = ["fit_seconds", "evaluate_seconds", "peak_memory", "module_bytes"]
    row = rank_one(rows, costs=costs)
    assert [row[name] for name in names] == pytest.approx([0.4, 0.2, 1007, 32768])
    row = rank_one(rows, costs=costs[:6])
    assert [pd.isna(row[name]) for name in names] == [True, True, True, False]
    row = rank_one(rows)
    assert row["fit_seconds"] == pytest.approx(0.4)
    assert pd.isna(row["peak_memory"])


def with_flips(cells: dict[tuple[str, int], tuple[int, int, int, int]]) -> list[Row]:
    """Rows from images of 100 that are right on both, on the source, on the target, on neither.

    Of those wrong on both, half have another class each time.
    """
    rows = []
    for (task, seed), (both, before, after, neither) in cells.items():
        where = {"task": task, "seed": seed}
        rows.append(make_row(both + before, **where))
        flips = dict(negative_flips=before, positive_flips=after, inconsistent_errors=neither // 2)
        rows.append(make_row(both + after, **where, backbone="new", **flips))
    return rows


# (task, seed) -> images right on both, on the source alone, on the target alone, on neither.
ANSWERS = {
    ("cats", 1): (50, 20, 10, 20),
    ("dogs", 1): (40, 10, 30, 20),
    ("cats", 2): (50, 10, 10, 30),
    ("dogs", 2): (30, 20, 30, 20),
}


def test_harmed_datasets_and_the_worst_by_hand() -> None:
    # Zero-shot is 60 on the target: cats 60 and 60, dogs 70 and 60.
    names = ("harmed", "worst_task", "worst_gain")
    row = rank_one(with_flips(ANSWERS))
    assert [row[name] for name in names] == [0, "cats", pytest.approx(0)]
    worse = dict(ANSWERS) | {("cats", 2): (40, 20, 10, 30), ("dogs", 2): (30, 20, 10, 40)}
    row = rank_one(with_flips(worse))
    assert [row[name] for name in names] == [2, "cats", pytest.approx(-5)]
    row = rank_one(with_flips(worse)[:-1])
    assert pd.isna([row[name] for name in names]).all()


def test_an_old_module_that_makes_independent_errors_has_a_relative_flip_rate_of_one() -> None:
    # 60 % and 70 % right, independently: 42 on both, 18 and 28 on one, 12 on neither.
    row = rank_one(with_flips(dict.fromkeys(ANSWERS, (42, 18, 28, 12))))
    assert row["relative_nfr"] == pytest.approx(1)
    row = rank_one(with_flips(dict.fromkeys(ANSWERS, (100, 0, 0, 0))))
    assert isnan(row["relative_nfr"])


@st.composite
def split_of_100(draw: st.DrawFn) -> tuple[int, int, int, int]:
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=3, max_size=3)))
    return cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], 100 - cuts[2]


@given(st.lists(split_of_100(), min_size=4, max_size=4))
def test_means_keep_what_holds_of_every_cell(splits: list[tuple[int, int, int, int]]) -> None:
    row = rank_one(with_flips(dict(zip(ANSWERS, splits, strict=True))))
    names = ("source", "target", "h", "negative_flips", "positive_flips")
    source, target, h, lost, won = (row[name] for name in names)
    assert target - source == pytest.approx(won - lost)
    assert h <= 2 * min(source, target) + 1e-9
    assert h <= max(source, target) + 1e-9
    assert h <= harmonic_mean(source, target) + 1e-9  # H is concave
