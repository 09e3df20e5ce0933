"""Figures computed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_results import (
    COOP,
    TWO_BY_TWO,
    ZEROSHOT,
    lines_of,
    make_method,
    make_pairs,
    make_row,
    refuse,
)

from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.expected import Expected
from compatbench.results.ranks import Ranked
from compatbench.results.rows import Row
from compatbench.results.standing import Mean, Standing, compute_standing

# (task, seed) -> correct of 100 on source, on target.
FIGURES = {
    ("cats", 1): (60, 30),  # H 40
    ("dogs", 1): (80, 20),  # H 32
    ("cats", 2): (50, 50),  # H 50
    ("dogs", 2): (90, 45),  # H 60
}


def standing_of(rows: list[Row], **changes: object) -> Standing:
    return compute_standing(make_method(COOP, rows, **changes), TWO_BY_TWO, ("old", "new"), 4)


def values(standing: Standing, *measures: str) -> list[float | None]:
    means = [standing.mean(measure) for measure in measures]  # type: ignore[arg-type]
    return [mean and mean.value for mean in means]


@pytest.mark.parametrize(
    ("a", "b", "h"), [(60, 30, 40), (80, 20, 32), (50, 50, 50), (0, 0, 0), (0, 100, 0)]
)
def test_harmonic_mean_by_hand(a: float, b: float, h: float) -> None:
    assert harmonic_mean(a, b) == pytest.approx(h)


def test_h_is_taken_per_dataset_and_seed_then_averaged() -> None:
    standing = standing_of(make_pairs(FIGURES))
    h = standing.mean("h")
    assert h.value == pytest.approx(45.5)  # seeds: 36 and 55
    assert h.std == pytest.approx(19 / 2**0.5)  # ddof = 1
    assert (standing.state, standing.coverage) == ("complete", (4, 4))
    # Zero-shot is 40 on the old model and 60 on the new one.
    found = values(standing, "source", "target", "gain", "source_gain")
    assert found == pytest.approx([70, 36.25, -23.75, 30])
    assert standing.by_task("h")["dogs"] == pytest.approx(46)


PAIRS = make_pairs(FIGURES)
LOST = PAIRS.index(make_row(50, task="cats", seed=2))
FAILED = make_row(None, status="failed", reason="RuntimeError: no", parameters=0)
REFUSED = lines_of(refuse(make_method(COOP, PAIRS), "sizes"))


@pytest.mark.parametrize(
    ("rows", "state", "coverage", "means"),
    [
        ([*PAIRS[:LOST], *PAIRS[LOST + 1 :]], "incomplete", (3, 4), [None, 36.25]),
        ([*PAIRS[: LOST + 1], *PAIRS[LOST + 2 :]], "incomplete", (3, 4), [70, None]),
        ([FAILED, *PAIRS[1:]], "incomplete", (3, 4), [None, 36.25]),
        (REFUSED, "not transferable", (4, 4), [70, None]),
    ],
)
def test_a_row_without_a_number_leaves_no_mean(
    rows: list[Row], state: str, coverage: tuple[int, int], means: list[float | None]
) -> None:
    standing = standing_of(rows)
    assert (standing.state, standing.coverage) == (state, coverage)
    assert values(standing, "h", "source", "target") == [None, *means]
    assert standing.by_task("h")["cats"] is None
    assert (standing.by_task("h")["dogs"] is None) == (rows is REFUSED)
    figures = Ranked("", standing).figures
    assert figures["parameters"] == figures["parameters_low"] == 8192
    reasons = (("sizes",), 4) if rows is REFUSED else ((), 0)
    assert (figures["reasons"], figures["refused"]) == reasons


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
        assert standing.mean("h") == Mean(pytest.approx(48), None)  # type: ignore[arg-type]
        assert standing.coverage == (2, 2)


def test_of_a_method_that_learns_nothing_a_draw_that_did_not_fail_counts() -> None:
    failed = make_row(None, method="zeroshot", seed=1, status="failed", reason="no")
    results = make_method(ZEROSHOT, [failed, make_row(40, method="zeroshot", seed=2)])
    assert results.find_row("cats", "old", "old", "cats", 4, 1) == 1
    assert results.find_row("cats", "old", "new", "cats", 4, 1) == -1


def test_costs_are_known_of_all_cells_or_not_at_all() -> None:
    rows = make_pairs(FIGURES)
    costs = make_method(COOP, rows).costs.astype({"evaluate_seconds": float})
    new = costs["backbone"] == "new"
    costs.loc[new, "evaluate_seconds"] = 0.2
    costs.loc[new, "peak_memory"] = [1001, 1003, 1005, 1007]
    names = ["fit_seconds", "evaluate_seconds", "peak_memory", "module_bytes"]
    for count, expected in [(8, [0.4, 0.2, 1007, 32768]), (6, [None, None, None, 32768])]:
        figures = Ranked("1", standing_of(rows, costs=costs[:count])).figures
        assert [figures[name] for name in names] == pytest.approx(expected)
    figures = Ranked("1", standing_of(rows)).figures
    assert (figures["fit_seconds"], figures["peak_memory"]) == (pytest.approx(0.4), None)


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
    assert standing_of(with_flips(ANSWERS)).harmed == (0, "cats", pytest.approx(0))
    worse = dict(ANSWERS) | {("cats", 2): (40, 20, 10, 30), ("dogs", 2): (30, 20, 10, 40)}
    assert standing_of(with_flips(worse)).harmed == (2, "cats", pytest.approx(-5))
    assert standing_of(with_flips(worse)[:-1]).harmed == (None,) * 3


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
    found = values(standing, "source", "target", "h", "negative_flips", "positive_flips")
    source, target, h, lost, won = (value for value in found if value is not None)
    assert target - source == pytest.approx(won - lost)
    assert h <= 2 * min(source, target) + 1e-9
    assert h <= max(source, target) + 1e-9
    assert h <= harmonic_mean(source, target) + 1e-9  # H is concave
