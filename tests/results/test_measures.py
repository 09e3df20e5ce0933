"""Figures computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import COOP, TWO_BY_TWO, ZEROSHOT, make_method, make_pairs, make_row

from compatbench.results.costs import evaluate_seconds, fit_seconds, module_bytes, peak_memory
from compatbench.results.measures import (
    Expected,
    Standing,
    compute_standing,
    harmonic_mean,
    mean_over_seeds,
    upgrade_pairs,
)
from compatbench.results.rows import Row

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
    assert fit_seconds(standing) == pytest.approx(0.4)
    half = make_method(COOP, rows, costs=whole.costs[:2])
    assert fit_seconds(compute_standing(half, TWO_BY_TWO, ("old", "new"), 4)) is None


def test_every_step_of_a_path_is_measured_with_the_first_module() -> None:
    assert upgrade_pairs([("a", "b", "c"), ("a", "b")]) == (("a", "b"), ("a", "c"))


def with_flips(
    cells: dict[tuple[str, int], tuple[int, int, int, int]], ece: tuple[float, float] = (4.0, 10.0)
) -> list[Row]:
    """Rows from images of 100 that are right on both, on the source, on the target, on neither.

    Of those wrong on both, half have another class each time.
    """
    rows = []
    for (task, seed), (both, before, after, neither) in cells.items():
        where = {"task": task, "seed": seed}
        rows.append(make_row(both + before, **where, ece=ece[0]))
        flips = dict(negative_flips=before, positive_flips=after, inconsistent_errors=neither // 2)
        rows.append(make_row(both + after, **where, backbone="new", ece=ece[1], **flips))
    return rows


# (task, seed) -> images right on both, on the source alone, on the target alone, on neither.
ANSWERS = {
    ("cats", 1): (50, 20, 10, 20),
    ("dogs", 1): (40, 10, 30, 20),
    ("cats", 2): (50, 10, 10, 30),
    ("dogs", 2): (30, 20, 30, 20),
}


def test_flips_and_calibration_by_hand() -> None:
    standing = standing_of(with_flips(ANSWERS))
    values = {
        measure: mean.value
        for measure in (
            "negative_flips",
            "positive_flips",
            "inconsistent_errors",
            "source_ece",
            "target_ece",
        )
        if (mean := standing.mean(measure))
    }
    assert values == pytest.approx(
        {
            "negative_flips": 15,
            "positive_flips": 20,
            "inconsistent_errors": 11.25,
            "source_ece": 4,
            "target_ece": 10,
        }
    )
    # Source 70, 50, 60, 50; target 60, 70, 60, 60. Independent errors would flip
    # 28, 15, 24 and 20 images: 60 did of an expected 87.
    assert standing.relative_flips == pytest.approx(60 / 87)


def test_harmed_datasets_and_the_worst_by_hand() -> None:
    # Zero-shot is 60 on the target: cats 60 and 60, dogs 70 and 60.
    assert standing_of(with_flips(ANSWERS)).harmed == (0, "cats", pytest.approx(0))
    worse = dict(ANSWERS) | {("cats", 2): (40, 20, 10, 30), ("dogs", 2): (30, 20, 10, 40)}
    assert standing_of(with_flips(worse)).harmed == (2, "cats", pytest.approx(-5))
    assert standing_of(with_flips(worse)[:-1]).harmed is None


def test_flips_that_were_lost_leave_no_figure() -> None:
    rows = with_flips(ANSWERS)
    lost: dict[str, None] = dict.fromkeys(
        ("negative_flips", "positive_flips", "inconsistent_errors")
    )
    standing = standing_of([*rows[:-1], rows[-1].model_copy(update=lost)])
    assert standing.mean("negative_flips") is None
    assert standing.relative_flips is None
    assert standing.mean("h") is not None


def test_an_old_module_that_makes_independent_errors_has_a_relative_flip_rate_of_one() -> None:
    # 60 % and 70 % right, independently: 42 on both, 18 and 28 on one, 12 on neither.
    standing = standing_of(with_flips(dict.fromkeys(ANSWERS, (42, 18, 28, 12))))
    assert standing.relative_flips == pytest.approx(1)
    none = standing_of(with_flips(dict.fromkeys(ANSWERS, (100, 0, 0, 0))))
    assert none.relative_flips is None


@st.composite
def split_of_100(draw: st.DrawFn) -> tuple[int, int, int, int]:
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=3, max_size=3)))
    return cuts[0], cuts[1] - cuts[0], cuts[2] - cuts[1], 100 - cuts[2]


@given(st.lists(split_of_100(), min_size=4, max_size=4))
def test_means_keep_what_holds_of_every_cell(splits: list[tuple[int, int, int, int]]) -> None:
    standing = standing_of(with_flips(dict(zip(ANSWERS, splits, strict=True))))
    source, target, h, lost, won = (
        standing.mean(measure)
        for measure in ("source", "target", "h", "negative_flips", "positive_flips")
    )
    assert source
    assert target
    assert h
    assert lost
    assert won
    assert target.value - source.value == pytest.approx(won.value - lost.value)
    assert h.value <= 2 * min(source.value, target.value) + 1e-9
    assert h.value <= max(source.value, target.value) + 1e-9
    averages = standing.h_of_averages
    assert averages is not None
    assert h.value <= averages.value + 1e-9  # H is concave


def test_costs_are_known_of_all_cells_or_not_at_all() -> None:
    rows = make_pairs(FIGURES)
    whole = make_method(COOP, rows)
    costs = [
        cost.model_copy(update={"evaluate_seconds": 0.2, "peak_memory": 1000 + number})
        if cost.backbone == "new"
        else cost
        for number, cost in enumerate(whole.costs)
    ]
    measured = make_method(COOP, rows, costs=tuple(costs))
    standing = compute_standing(measured, TWO_BY_TWO, ("old", "new"), 4)
    assert evaluate_seconds(standing) == pytest.approx(0.2)
    assert peak_memory(standing) == 1007
    assert module_bytes(standing) == 32768
    for partial in (make_method(COOP, rows, costs=tuple(costs[:6])), whole):
        assert peak_memory(compute_standing(partial, TWO_BY_TWO, ("old", "new"), 4)) is None
    half = make_method(COOP, rows, costs=tuple(costs[:6]))
    assert evaluate_seconds(compute_standing(half, TWO_BY_TWO, ("old", "new"), 4)) is None
