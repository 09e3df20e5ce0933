"""Intervals against scipy, against what is known of them, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from synthetic_results import (
    CELLS,
    COOP,
    TWO_BY_TWO,
    UPGRADE,
    ZERO_SHOT,
    flat,
    make_method,
    make_page,
    make_pairs,
    make_row,
    make_suite,
    on_tasks,
    through_words,
)

from compatbench.results.estimate import (
    average_units,
    estimate,
    harmonic_mean_of_means,
    mean,
    ratio_of_means,
)
from compatbench.results.gaps import find_gaps
from compatbench.results.method_results import MethodResults
from compatbench.results.standing import (
    Standing,
    compute_retained,
    compute_standing,
    measure_interval,
    paired_interval,
)

RNG = np.random.default_rng(2)
BELOW = RNG.normal(8, 2, 30)
ABOVE = BELOW * 0.5 + RNG.normal(0, 1, 30)


@pytest.mark.parametrize(
    ("statistic", "of_means", "near"),
    [
        (ratio_of_means, lambda above, below: above / below, 0.01),
        (harmonic_mean_of_means, lambda *means: stats.hmean(means), 0.05),
    ],
)
def test_intervals_are_those_that_scipy_gives(statistic, of_means, near: float) -> None:
    def theirs(above, below, axis):
        return of_means(above.mean(axis), below.mean(axis))

    found = estimate({"a": ABOVE, "b": BELOW}, statistic=statistic)
    # As wide as Student's, of a bootstrap whose variance is that of the sample.
    level = 1 - 2 * stats.norm.sf(stats.t.ppf(0.975, 29) * np.sqrt(30 / 29))
    same = dict(paired=True, method="percentile", confidence_level=level, random_state=1)
    expected = stats.bootstrap((ABOVE, BELOW), theirs, **same)
    assert found.value == pytest.approx(theirs(ABOVE, BELOW, axis=0))
    bounds = [*expected.confidence_interval]
    assert [found.low, found.high] == pytest.approx(bounds, abs=near)


def test_rows_of_a_unit_are_averaged_and_units_are_drawn() -> None:
    rows = [("a", 1, 10.0), ("b", 1, 30.0), ("a", 2, 20.0), ("b", 2, 50.0)]
    frame = pd.DataFrame(rows, columns=["task", "seed", "gain"])
    assert average_units(frame[["task", "gain"]], "task")["gain"].tolist() == [15, 40]
    found = estimate(frame[["task", "gain"]], "task")
    assert found == estimate([15, 40])
    assert (found.value, found.units) == (27.5, 2)
    # Every row a unit of its own is another question.
    assert estimate(frame["gain"]) != found


@pytest.mark.parametrize(
    ("figures", "statistic"),
    [
        ([], mean),
        ([1.0, np.nan], mean),
        (pd.DataFrame({"a": [], "b": []}), ratio_of_means),
        ({"a": [1.0, 2.0], "b": [0.0, 0.0]}, ratio_of_means),
    ],
)
def test_what_is_missing_or_not_defined_has_no_estimate(figures, statistic) -> None:
    assert estimate(figures, statistic=statistic) is None


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    found, theirs = estimate(BELOW), stats.ttest_1samp(BELOW, 0).confidence_interval()
    assert (found.low, found.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


@given(st.lists(st.floats(-100, 100).map(lambda x: round(x, 2)), min_size=2, max_size=12))
def test_an_interval_holds_its_mean_and_decides_with_six_units(values: list[float]) -> None:
    found = estimate(values)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    assert found.decides == (len(values) >= 6)
    assert found.sign == 0 or found.decides


def standing(values: list[int], left_out: int = 0) -> Standing:
    results = on_tasks("coop", values)
    results = replace(results, rows=results.rows[: len(results.rows) - left_out])
    expected = replace(TWO_BY_TWO, tasks=tuple("abcdefgh"[: len(values)]))
    return compute_standing(results, expected, UPGRADE, 4)


def test_intervals_of_measures_and_of_differences() -> None:
    one, other, part = standing([50, 61, 72, 80]), standing([48, 60, 70, 79]), [50, 60, 70, 80]
    found, theirs = paired_interval(one, other, "h"), estimate([2, 1, 2, 1])
    assert (found.value, found.low) == (1.5, pytest.approx(theirs.low))
    assert paired_interval(one, standing(part, left_out=1), "h") is None
    assert measure_interval(standing(part, left_out=1), "h") is None
    alone = measure_interval(standing([50]), "h")
    assert (alone.value, alone.sign, alone.bounded) == (51, 0, False)


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


def retained_of(attached: dict, retrained: dict) -> tuple:
    return compute_retained(with_retrained(attached, retrained), EXPECTED, UPGRADE, 4)


@pytest.mark.parametrize("place", [0, 1])
def test_a_missing_cell_leaves_no_share(place: int) -> None:
    sides = [ATTACHED, RETRAINED]
    sides[place] = {cell: sides[place][cell] for cell in CELLS[:-1]}
    *gains, kept = retained_of(*sides)
    assert [gain is None for gain in gains] == [place == 0, place == 1]
    assert kept is None


SIX = [(task, seed) for task in "abcdef" for seed in (1, 2)]


def counts(least: int) -> st.SearchStrategy[dict[tuple[str, int], int]]:
    return st.fixed_dictionaries(dict.fromkeys(SIX, st.integers(least, least + 10)))


@settings(max_examples=20)
@given(counts(40), counts(ZERO_SHOT["new"] + 15))
def test_the_share_times_the_retrained_gain_is_the_old_gain(old: dict, right: dict) -> None:
    expected = replace(EXPECTED, tasks=tuple("abcdef"))
    attached, retrained, kept = compute_retained(with_retrained(old, right), expected, UPGRADE, 4)
    assert kept.value * retrained.value / 100 == pytest.approx(attached.value)
    assert kept.low - 1e-9 <= kept.value <= kept.high + 1e-9


def test_retrained_rows_are_asked_for_and_are_no_upgrade() -> None:
    whole = with_retrained(ATTACHED, RETRAINED)
    words = through_words(flat(COOP, 50, 60))
    assert find_gaps(make_suite(whole), EXPECTED).empty
    assert find_gaps(make_suite(words), EXPECTED).empty
    [ranked] = make_page(whole, expected=EXPECTED).ranks(UPGRADE, 4)
    assert ranked.standing.state == "complete"
    fewer = make_suite(replace(whole, rows=whole.rows[:-1]))
    [gap] = find_gaps(fewer, EXPECTED).to_dict("records")
    assert (gap["task"], gap["seed"], gap["backbone"]) == ("dogs", 2, "new, retrained")
    # A suite that does not retrain does not ask for them.
    assert find_gaps(fewer, TWO_BY_TWO).empty
