"""Figures computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import COOP, TWO_BY_TWO, ZEROSHOT, make_method, make_pairs, make_row

from compatbench.leaderboard.measures import (
    Expected,
    Standing,
    compute_standing,
    harmonic_mean,
    mean_over_seeds,
    upgrade_pairs,
)
from compatbench.leaderboard.rows import Row

# (task, seed) -> correct of 100 on source, on target.
FIGURES = {
    ("cats", 1): (60, 30),  # H 40
    ("dogs", 1): (80, 20),  # H 32
    ("cats", 2): (50, 50),  # H 50
    ("dogs", 2): (90, 45),  # H 60
}
percents = st.floats(0, 100)


def standing_of(rows: list[Row], expected: Expected = TWO_BY_TWO) -> Standing:
    return compute_standing(make_method(COOP, rows), expected, ("old", "new"), 4)


@pytest.mark.parametrize(
    ("a", "b", "h"), [(60, 30, 40), (80, 20, 32), (50, 50, 50), (0, 0, 0), (0, 100, 0)]
)
def test_harmonic_mean_by_hand(a: float, b: float, h: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(h)


@given(percents, percents)
def test_harmonic_mean_is_symmetric_and_bounded(a: float, b: float) -> None:
    h = harmonic_mean(a, b)
    assert h == harmonic_mean(b, a)
    assert min(a, b) * (1 - 1e-12) <= h <= max(a, b)
    assert h <= 2 * min(a, b)


def test_h_is_taken_per_dataset_and_seed_then_averaged() -> None:
    standing = standing_of(make_pairs(FIGURES))
    h = standing.mean("h")
    assert h is not None
    assert h.value == pytest.approx(45.5)  # seeds: 36 and 55
    assert h.std == pytest.approx(19 / 2**0.5)  # ddof = 1
    assert standing.state == "complete"
    assert standing.coverage == (4, 4)


def test_h_of_the_averages_is_another_figure() -> None:
    h = standing_of(make_pairs(FIGURES)).h_of_averages
    assert h is not None
    first, second = 2 * 70 * 25 / 95, 2 * 70 * 47.5 / 117.5
    assert h.value == pytest.approx((first + second) / 2)


def test_means_per_measure_and_per_task() -> None:
    standing = standing_of(make_pairs(FIGURES))
    values = {
        measure: mean.value
        for measure in ("source", "target", "gain", "source_gain")
        if (mean := standing.mean(measure))
    }
    # Zero-shot is 40 on the old model and 60 on the new one.
    assert values == pytest.approx(
        {"source": 70, "target": 36.25, "gain": -23.75, "source_gain": 30}
    )
    dogs = standing.mean("h", "dogs")
    assert dogs is not None
    assert dogs.value == pytest.approx(46)


def test_one_seed_has_no_spread() -> None:
    assert mean_over_seeds([[10.0, 20.0]]) is not None
    assert mean_over_seeds([[10.0, 20.0]]).std is None  # type: ignore[union-attr]
    assert mean_over_seeds([]) is None
    assert mean_over_seeds([[]]) is None


@pytest.mark.parametrize("backbone", ["old", "new"])
def test_a_missing_row_leaves_no_mean(backbone: str) -> None:
    rows = [
        row
        for row in make_pairs(FIGURES)
        if (row.task, row.seed, row.backbone) != ("cats", 2, backbone)
    ]
    standing = standing_of(rows)
    assert standing.mean("h") is None
    assert standing.h_of_averages is None
    assert standing.mean("h", "cats") is None
    assert standing.mean("h", "dogs") is not None
    assert standing.mean("source" if backbone == "old" else "target") is None
    assert standing.mean("target" if backbone == "old" else "source") is not None
    assert standing.coverage == (3, 4)
    assert standing.state == "incomplete"


def test_a_failed_row_leaves_no_mean() -> None:
    rows = make_pairs(FIGURES)[1:]
    rows.append(make_row(None, status="failed", reason="RuntimeError: no"))
    standing = standing_of(rows)
    assert standing.mean("h") is None
    assert standing.coverage == (3, 4)
    assert standing.state == "incomplete"
    assert standing.parameters == (8192, 8192)


def test_a_module_that_cannot_be_attached_is_a_state_of_its_own() -> None:
    rows = [row for row in make_pairs(FIGURES) if row.backbone == "old"]
    rows += [
        make_row(
            None, task=task, seed=seed, backbone="new", status="not transferable", reason="sizes"
        )
        for task, seed in FIGURES
    ]
    standing = standing_of(rows)
    assert standing.state == "not transferable"
    assert standing.reasons == ("sizes",)
    assert standing.coverage == (4, 4)
    assert standing.mean("h") is None
    source = standing.mean("source")
    assert source is not None
    assert source.value == pytest.approx(70)


def test_rows_that_the_suite_does_not_ask_for_are_passed_over() -> None:
    rows = make_pairs(FIGURES)
    extra = make_pairs({("birds", 1): (1, 1), ("cats", 3): (1, 1)})
    extra += [make_row(1, shots=8), make_row(1, test_set="cats-sketch")]
    assert standing_of(rows + extra).mean("h") == standing_of(rows).mean("h")


def test_a_method_that_learns_nothing_has_one_seed_at_any_shots() -> None:
    figures = {("cats", 1): (40, 60), ("dogs", 1): (40, 60)}
    expected = Expected(("cats", "dogs"), (4, 16), (1, 2, 3), (("old", "new"),))
    results = make_method(ZEROSHOT, make_pairs(figures, method="zeroshot"))
    for shots in expected.shots:
        standing = compute_standing(results, expected, ("old", "new"), shots)
        h = standing.mean("h")
        assert h is not None
        assert (h.value, h.std) == (pytest.approx(48), None)
        assert standing.coverage == (2, 2)


def test_fit_time_is_per_fit_and_known_for_all_or_not_at_all() -> None:
    rows = make_pairs(FIGURES)
    whole = make_method(COOP, rows, seconds=0.4)
    standing = compute_standing(whole, TWO_BY_TWO, ("old", "new"), 4)
    assert standing.fit_seconds == pytest.approx(0.4)
    half = make_method(COOP, rows, costs=whole.costs[:2])
    assert compute_standing(half, TWO_BY_TWO, ("old", "new"), 4).fit_seconds is None


def test_every_step_of_a_path_is_measured_with_the_first_module() -> None:
    assert upgrade_pairs([("a", "b", "c"), ("a", "b")]) == (("a", "b"), ("a", "c"))
