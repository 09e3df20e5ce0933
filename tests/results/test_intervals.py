"""Intervals over datasets, average ranks, and methods that are attached through a map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy import stats
from synthetic_results import (
    COOP,
    PROBE,
    TWO_BY_TWO,
    ZEROSHOT,
    make_method,
    make_page,
    make_pairs,
    make_row,
    through_words,
)

from compatbench.results.intervals import (
    dataset_means,
    measure_interval,
    paired_interval,
    rank_datasets,
)
from compatbench.results.measures import Expected, Standing, compute_standing
from compatbench.results.ranks import Ranked, rank_methods, rank_upgrades
from compatbench.results.store import MethodInfo, MethodResults

UPGRADE = ("old", "new")
TASKS = tuple("abcdefgh")
EIGHT = Expected(TASKS, (4,), (1, 2), (UPGRADE,))


def method(name: str, values: list[int], info: MethodInfo = COOP) -> MethodResults:
    """Source and target accuracy, and so H, are the value, one per task; seed 2 has two more."""
    figures = {
        (task, seed): (value + 2 * (seed - 1), value + 2 * (seed - 1))
        for task, value in zip(TASKS, values, strict=False)
        for seed in ((1, 2) if info.learns else (1,))
    }
    return make_method(replace(info, name=name, title=name), make_pairs(figures, method=name))


def standing(values: list[int], name: str = "coop") -> Standing:
    expected = replace(EIGHT, tasks=TASKS[: len(values)])
    return compute_standing(method(name, values), expected, UPGRADE, 4)


def test_a_missing_cell_leaves_no_interval_and_one_dataset_no_bounds() -> None:
    whole = method("coop", [40, 60])
    fewer = replace(whole, rows=whole.rows[:-1])
    expected = replace(EIGHT, tasks=TASKS[:2])
    assert measure_interval(compute_standing(fewer, expected, UPGRADE, 4), "h") is None
    alone = measure_interval(standing([50]), "h")
    assert alone is not None
    assert alone.low == -math.inf


def test_a_task_counts_once_however_many_upgrades_are_joined() -> None:
    expected = Expected(("cats", "dogs"), (4,), (1,), (UPGRADE, ("old", "newer")))
    rows = [
        make_row(right, task=task, backbone=backbone)
        for backbone, both in (("old", (50, 70)), ("new", (50, 70)), ("newer", (50, 30)))
        for task, right in zip(("cats", "dogs"), both, strict=True)
    ]
    page = make_page(make_method(COOP, rows), expected=expected)
    [ranked] = rank_upgrades(page.copied, page.expected, expected.upgrades, 4)
    found = measure_interval(ranked.standing, "target")
    assert dataset_means(ranked.standing, "target") == {"cats": 50, "dogs": 50}
    assert found is not None
    assert (found.low, found.value, found.high) == (50, 50, 50)
    mean = ranked.standing.mean("target")
    assert mean is not None
    assert mean.value == found.value


def test_a_paired_interval_is_that_of_the_differences() -> None:
    one, other = standing([50, 61, 72, 80]), standing([48, 60, 70, 79], "other")
    found = paired_interval(one, other, "h")
    assert found is not None
    assert (found.low, found.value, found.high) == (pytest.approx(1), 1.5, pytest.approx(2))
    whole = method("gone", [50, 60, 70, 80])
    gone = replace(whole, rows=whole.rows[:-1])
    expected = replace(EIGHT, tasks=TASKS[:4])
    assert paired_interval(one, compute_standing(gone, expected, UPGRADE, 4), "h") is None


def ranked_page():
    best, next_, worst = [60 + i for i in range(8)], [50 + i for i in range(8)], [10] * 8
    floor = method("zeroshot", [49 + i for i in range(8)], ZEROSHOT)
    return make_page(
        method("next", next_), method("worst", worst), method("best", best), floor, expected=EIGHT
    )


def test_average_ranks_and_friedman_are_worked_through() -> None:
    found = rank_datasets(ranked_page().ranks(UPGRADE, 4))
    assert found is not None
    standings, test = found
    # The same order on every dataset; the floor, which has no second seed, is 2 below 'next'.
    assert [one.info.name for one in standings] == ["best", "next", "zeroshot", "worst"]
    assert test.ranks == (1, 2, 3, 4)
    # Demšar: 12 N / (k (k + 1)) · (Σ R² - k (k + 1)² / 4) = 12 · 8 / 20 · (30 - 25) = 24.
    assert test.statistic == pytest.approx(24)
    assert test.p_value == pytest.approx(stats.chi2.sf(24, df=3))
    # Table 5: q = 2.569 for four methods at 5 %.
    assert test.critical_difference == pytest.approx(2.569 * math.sqrt(20 / 48), abs=1e-3)


def test_ranks_need_three_complete_methods_and_two_datasets() -> None:
    page = ranked_page()
    methods = list(page.results.methods.values())
    assert rank_datasets(make_page(*methods[:2], expected=EIGHT).ranks(UPGRADE, 4)) is None
    one = replace(EIGHT, tasks=TASKS[:1])
    assert rank_datasets(make_page(*methods, expected=one).ranks(UPGRADE, 4)) is None
    broken = replace(methods[0], rows=methods[0].rows[:-1])
    found = rank_datasets(make_page(broken, *methods[1:], expected=EIGHT).ranks(UPGRADE, 4))
    assert found is not None
    assert "next" not in [one.info.name for one in found[0]]


CELLS = [("cats", 1), ("dogs", 1), ("cats", 2), ("dogs", 2)]


def flat(info: MethodInfo, source: int, target: int) -> MethodResults:
    figures = dict.fromkeys(CELLS, (source, target))
    return make_method(info, make_pairs(figures, method=info.name))


def test_a_map_changes_no_place_of_an_untouched_module() -> None:
    plain = [flat(PROBE, 80, 20), flat(COOP, 60, 60), flat(replace(COOP, name="c"), 59, 60)]
    alone, beside = make_page(*plain), make_page(*plain, through_words(flat(PROBE, 99, 99)))
    expected = rank_methods([compute_standing(one, TWO_BY_TWO, UPGRADE, 4) for one in plain])
    for ranks in (
        *(alone.ranks(UPGRADE, 4), beside.ranks(UPGRADE, 4)),
        *(rank_upgrades(page.copied, page.expected, (UPGRADE,), 4) for page in (alone, beside)),
    ):
        assert places(ranks) == places(expected)


def places(ranks: Sequence[Ranked]) -> list[tuple[object, ...]]:
    return [(one.rank, one.standing.info.name, one.standing.mean("h")) for one in ranks]
