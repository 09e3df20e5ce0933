"""Intervals against scipy, against what is known of them, and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic_results import (
    COOP,
    TWO_BY_TWO,
    ZERO_SHOT,
    make_method,
    make_page,
    make_pairs,
    make_row,
    make_suite,
    through_words,
)

from compatbench.results.bootstrap import (
    Interval,
    compute_retained,
    crossed_interval,
    dataset_means,
    draw_resamples,
    family_means,
    mean_interval,
    measure_interval,
    paired_interval,
    ratio_interval,
    spearman_interval,
)
from compatbench.results.measures import Expected, Mean, Standing, compute_standing
from compatbench.results.ranking_table import find_gaps
from compatbench.results.ranks import rank_upgrades
from compatbench.results.store import MethodResults

figures = st.lists(st.floats(-100, 100).map(lambda x: round(x, 2)), min_size=2, max_size=12)


def test_the_mean_has_the_interval_that_scipy_gives() -> None:
    values = np.random.default_rng(1).normal(3, 2, 30)
    found = mean_interval(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20000, method="percentile", random_state=1
    ).confidence_interval
    assert found.value == values.mean()
    assert found.low == pytest.approx(theirs.low, abs=0.05)
    assert found.high == pytest.approx(theirs.high, abs=0.05)


def test_a_correlation_is_scipys_and_so_is_its_interval() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=40).round(1)  # with ties
    y = (0.5 * x + rng.normal(size=40)).round(1)
    found = spearman_interval(x, y)
    assert found is not None
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        n_resamples=2000,
        paired=True,
        vectorized=False,
        method="percentile",
        random_state=1,
    ).confidence_interval
    assert found.low == pytest.approx(theirs.low, abs=0.05)
    assert found.high == pytest.approx(theirs.high, abs=0.05)


def test_an_interval_over_eight_datasets_holds_the_mean_nine_times_in_ten() -> None:
    rng = np.random.default_rng(3)
    intervals = [mean_interval(rng.normal(size=8)) for _ in range(500)]
    share = np.mean([one.low <= 0 <= one.high for one in intervals])
    assert 0.86 < share < 0.94


@pytest.mark.parametrize(
    ("x", "y"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [2, 2, 2])]
)
def test_a_correlation_that_is_not_defined_is_none(x: list[int], y: list[int]) -> None:
    assert spearman_interval(x, y) is None


@given(figures)
def test_an_interval_holds_its_mean_and_lies_among_the_values(values: list[float]) -> None:
    found = mean_interval(values)
    assert min(values) - 1e-9 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= max(values) + 1e-9


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=10))
def test_a_correlation_knows_order_only_and_turns_with_it(pairs: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = spearman_interval(x, y)
    curved = spearman_interval([math.exp(a / 3) for a in x], y)
    turned = spearman_interval(x, [-b for b in y])
    if found is None:
        assert curved is None
        assert turned is None
        return
    assert curved is not None
    assert turned is not None
    assert (curved.value, curved.low, curved.high) == pytest.approx(
        (found.value, found.low, found.high)
    )
    assert (turned.value, turned.low, turned.high) == pytest.approx(
        (-found.value, -found.high, -found.low), abs=1e-9
    )


def test_one_unit_says_nothing_of_chance() -> None:
    found = mean_interval([5.0])
    assert (found.value, found.sign, found.bounded) == (5.0, 0, False)


@pytest.mark.parametrize(
    ("interval", "sign"),
    [(Interval(2, 1, 3), 1), (Interval(-2, -3, -1), -1), (Interval(1, -1, 3), 0)],
)
def test_the_sign_is_that_of_the_whole_interval(interval: Interval, sign: int) -> None:
    assert interval.sign == sign


def test_resamples_are_the_same_in_every_run_and_reach_every_unit() -> None:
    draws = draw_resamples(5, 1000)
    assert (draws == draw_resamples(5, 1000)).all()
    counts = np.bincount(draws.ravel(), minlength=5) / draws.size
    assert np.abs(counts - 0.2).max() < 0.02


def test_methods_that_differ_widen_a_crossed_interval() -> None:
    rng = np.random.default_rng(4)
    datasets = rng.normal(0, 1, 10)

    def table(spread: float) -> np.ndarray:
        return spread * rng.normal(size=(6, 1)) + datasets + 0.1 * rng.normal(size=(6, 10))

    def difference(a: np.ndarray, b: np.ndarray) -> float:
        return a.mean() - b.mean()

    alike = crossed_interval([table(0.0), table(0.0)], difference)
    unlike = crossed_interval([table(3.0), table(3.0)], difference)
    # What is common to a dataset's column cancels.
    assert alike.high - alike.low < 0.2
    assert unlike.high - unlike.low > 1


def test_a_family_counts_once() -> None:
    accuracies = {"imagenet": 70.0, "v2": 60.0, "sketch": 50.0, "pets": 90.0}
    assert family_means(accuracies, {"v2": "imagenet", "sketch": "imagenet"}) == {
        "imagenet": 60.0,
        "pets": 90.0,
    }


def test_a_ratio_of_means_has_the_interval_that_scipy_gives() -> None:
    rng = np.random.default_rng(4)
    below = rng.normal(8, 2, 30)
    above = below * 0.5 + rng.normal(0, 1, 30)
    found = ratio_interval(above, below)
    assert found is not None
    theirs = stats.bootstrap(
        (above, below),
        lambda a, b, axis=-1: a.mean(axis=axis) / b.mean(axis=axis),
        n_resamples=20000,
        paired=True,
        method="percentile",
        random_state=1,
    ).confidence_interval
    assert found.value == above.mean() / below.mean()
    assert found.low == pytest.approx(theirs.low, abs=0.01)
    assert found.high == pytest.approx(theirs.high, abs=0.01)


@pytest.mark.parametrize("below", [[5.0], [3.0, -2.0], [0.0, 0.0], [-1.0, -2.0], [4.0, 0.0]])
def test_there_is_no_ratio_to_a_mean_that_is_not_clearly_positive(below: list[float]) -> None:
    assert ratio_interval([1.0] * len(below), below) is None


UPGRADE = ("old", "new")
CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]


def standing(values: list[int], left_out: int = 0) -> Standing:
    """Source and target accuracy, and so H, are the value, one per task; seed 2 has two more."""
    tasks = tuple("abcdefgh"[: len(values)])
    figures = {
        (task, seed): (value + 2 * (seed - 1),) * 2
        for task, value in zip(tasks, values, strict=True)
        for seed in (1, 2)
    }
    rows = make_pairs(figures)  # type: ignore[arg-type]
    expected = replace(TWO_BY_TWO, tasks=tasks)
    results = make_method(COOP, rows[: len(rows) - left_out])
    return compute_standing(results, expected, UPGRADE, 4)


def test_a_missing_cell_leaves_no_interval_and_one_dataset_no_bounds() -> None:
    assert measure_interval(standing([40, 60], left_out=1), "h") is None
    alone = measure_interval(standing([50]), "h")
    assert alone is not None
    assert alone.low == -math.inf


def test_a_paired_interval_is_that_of_the_differences() -> None:
    one, other = standing([50, 61, 72, 80]), standing([48, 60, 70, 79])
    found = paired_interval(one, other, "h")
    assert found is not None
    assert (found.low, found.value, found.high) == (pytest.approx(1), 1.5, pytest.approx(2))
    assert paired_interval(one, standing([50, 60, 70, 80], left_out=1), "h") is None


def test_a_task_counts_once_however_many_upgrades_are_joined() -> None:
    expected = Expected(("cats", "dogs"), (4,), (1,), (UPGRADE, ("old", "newer")))
    rows = [
        make_row(right, task=task, backbone=backbone)
        for backbone, both in (("old", (50, 70)), ("new", (50, 70)), ("newer", (50, 30)))
        for task, right in zip(("cats", "dogs"), both, strict=True)
    ]
    [ranked] = rank_upgrades([make_method(COOP, rows)], expected, expected.upgrades, 4)
    found = measure_interval(ranked.standing, "target")
    assert dataset_means(ranked.standing, "target") == {"cats": 50, "dogs": 50}
    assert found == Interval(50, 50, 50)
    assert ranked.standing.mean("target") == Mean(50)


EXPECTED = replace(TWO_BY_TWO, retrained=True)
# Of 100 images, on a target whose zero-shot has 60 right: attached, and retrained there.
ATTACHED = dict(zip(CELLS, (62, 70, 64, 68), strict=True))
RETRAINED = dict(zip(CELLS, (64, 88, 68, 84), strict=True))


def with_retrained(attached: dict, retrained: dict) -> MethodResults:
    rows = make_pairs({cell: (50, correct) for cell, correct in attached.items()})
    rows += [
        make_row(correct, task=task, seed=seed, source="new", backbone="new")
        for (task, seed), correct in retrained.items()
    ]
    return make_method(COOP, rows)


def retained_of(
    attached: dict, retrained: dict
) -> tuple[Mean | None, Mean | None, Interval | None]:
    return compute_retained(with_retrained(attached, retrained), EXPECTED, UPGRADE, 4)


def test_the_share_that_is_kept_is_the_ratio_of_two_mean_gains() -> None:
    attached, retrained, kept = retained_of(ATTACHED, RETRAINED)
    assert attached is not None
    assert retrained is not None
    assert kept is not None
    assert attached.value == pytest.approx(6)  # 2, 10, 4, 8
    assert retrained.value == pytest.approx(16)  # 4, 28, 8, 24
    assert kept.value == pytest.approx(37.5)  # not the mean of 50 % and 34.6 %
    # Two datasets: the resamples are cats alone, dogs alone, and both.
    assert (kept.low, kept.high) == (pytest.approx(100 * 9 / 26), pytest.approx(100 * 3 / 6))


@pytest.mark.parametrize("place", [0, 1])
def test_a_missing_cell_leaves_no_share(place: int) -> None:
    sides = [ATTACHED, RETRAINED]
    sides[place] = {cell: sides[place][cell] for cell in CELLS[:-1]}
    *gains, kept = retained_of(*sides)
    assert [gain is None for gain in gains] == [place == 0, place == 1]
    assert kept is None


@pytest.mark.parametrize("right", [(60, 60), (50, 90), (61, 59), (40, 40)])
def test_there_is_no_share_of_a_gain_that_is_not_clear(right: tuple[int, int]) -> None:
    retrained = {(task, seed): right[task == "dogs"] for task, seed in CELLS}
    assert retained_of(ATTACHED, retrained)[2] is None


def counts(least: int) -> st.SearchStrategy[dict[tuple[str, int], int]]:
    return st.fixed_dictionaries(dict.fromkeys(CELLS, st.integers(least, 100)))


@given(counts(0), counts(ZERO_SHOT["new"] + 1))
def test_the_share_times_the_retrained_gain_is_the_old_gain(old: dict, right: dict) -> None:
    attached, retrained, kept = retained_of(old, right)
    assert attached is not None
    assert retrained is not None
    assert kept is not None
    assert kept.value * retrained.value / 100 == pytest.approx(attached.value)
    assert kept.low - 1e-9 <= kept.value <= kept.high + 1e-9


def test_retrained_rows_are_asked_for_and_are_no_upgrade() -> None:
    whole = with_retrained(ATTACHED, RETRAINED)
    assert find_gaps(make_suite(whole), EXPECTED).empty
    [ranked] = make_page(whole, expected=EXPECTED).ranks(UPGRADE, 4)
    assert ranked.standing.state == "complete"
    fewer = make_suite(replace(whole, rows=whole.rows[:-1]))
    [gap] = find_gaps(fewer, EXPECTED).to_dict("records")
    assert (gap["task"], gap["seed"], gap["backbone"]) == ("dogs", 2, "new, retrained")
    words = through_words(make_method(COOP, make_pairs(dict.fromkeys(CELLS, (50, 60)))))
    assert find_gaps(make_suite(words), EXPECTED).empty
    # A suite that does not retrain does not ask for them.
    assert find_gaps(fewer, TWO_BY_TWO).empty
