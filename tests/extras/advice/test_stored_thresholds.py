"""How many stored thresholds keep their precision, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t
from synthetic_results import TWO_BY_TWO, UPGRADE, by_transfer, make_method, make_page, make_row

import compatbench as cb
from compatbench.errors import CompatbenchError
from compatbench.extras.advice.answers import answer_table
from compatbench.extras.advice.price_pages import has_prices
from compatbench.extras.advice.stored_thresholds import list_survival, survival_table
from compatbench.results.method_results import MethodInfo, MethodResults
from compatbench.results.ranks import rank_upgrades
from compatbench.tables.pages.leaderboard import render_leaderboard

THRESHOLD = MethodInfo("threshold", "Threshold", "arXiv:1705.08500", "deep", ("answer",))
SIX = replace(TWO_BY_TWO, tasks=tuple("abcdef"))
HIGH, LOW, MIXED = [48, 49, 47, 48, 49, 48], [30, 31, 29, 30, 32, 30], [30, 50, 45, 48, 40, 49]


def make_thresholds(right: Sequence[int], transfer: str = "copied") -> MethodResults:
    """Of 100 images 50 are answered, of which so many are right; 46 on the source."""
    rows = [
        make_row(count, method="threshold", task=task, seed=seed, backbone=backbone, answered=50.0)
        for task, of_task in zip("abcdef", right, strict=False)
        for seed in (1, 2)
        for backbone, count in (("old", 46), ("new", of_task))
    ]
    results = make_method(THRESHOLD, rows, config={"precision": 0.9, "per_class": False})
    return by_transfer(transfer, results)


def test_thresholds_are_counted_and_their_precision_has_an_interval_over_tasks() -> None:
    page = make_page(make_thresholds(MIXED), expected=SIX)
    source, target = list_survival(page, UPGRADE)
    assert (source.kept, source.of, source.verdict) == (12, 12, "holds")
    precision = np.array([2 * right for right in MIXED])
    assert (target.kept, target.of) == (2 * int((precision >= 90).sum()), 12)
    assert target.precision.value == pytest.approx(precision.mean())
    reach = t.ppf(0.975, 5) * precision.std(ddof=1) / 6**0.5
    assert target.precision.low == pytest.approx(precision.mean() - reach)
    naive = np.mean([2 * p * r / (p + r) for p, r in zip(precision, MIXED, strict=True)])
    assert target.f1.value == pytest.approx(naive)
    assert target.answered == pytest.approx(50)
    [*_, missing] = list_survival(make_page(make_thresholds(MIXED[:5]), expected=SIX), UPGRADE)
    assert (missing.kept, missing.precision, missing.verdict) == (None, None, "–")


@pytest.mark.parametrize(
    ("right", "verdict"),
    [(HIGH, "holds"), (LOW, "does not hold"), (MIXED, "cannot tell"), (LOW[:5], "cannot tell")],
)
def test_a_verdict_takes_the_whole_interval_over_six_tasks(right: list[int], verdict: str) -> None:
    expected = replace(SIX, tasks=tuple("abcdef"[: len(right)]))
    page = make_page(make_thresholds(right), expected=expected)
    assert [*list_survival(page, UPGRADE)][1].verdict == verdict


def test_the_leaderboard_says_how_many_are_kept_and_ranks_none() -> None:
    ways = {"copied": LOW, "quantile": HIGH, "retrained+16": HIGH}
    methods = [make_thresholds(right, way) for way, right in ways.items()]
    page = make_page(*methods, expected=SIX)
    shown = [[cell.text for cell in row] for row in survival_table(page, UPGRADE).rows]
    assert [row[1:4] for row in shown] == [
        ["on the old model", "–", "12 of 12"],
        ["copied", "nothing", "0 of 12"],
        ["quantile", "unlabelled images", "12 of 12"],
        ["retrained+16", "16 labels per class", "12 of 12"],
    ]
    text = render_leaderboard([page])
    assert "\n### Stored thresholds\n" in text
    assert "0 of 12 copied thresholds are as precise as they were chosen to be" in text
    [ranked] = rank_upgrades([methods[0]], SIX, [UPGRADE], 4)
    assert (ranked.rank, ranked.standing.state) == ("", "not ranked")
    # Accuracy, by which ways are priced and chosen, is not what a threshold is for.
    assert not has_prices(page)
    assert not answer_table(page).rows


def test_advice_is_about_methods_that_answer_every_image() -> None:
    with pytest.raises(CompatbenchError, match="the results of suite 'mini-thresholds' have none"):
        cb.advise("mini-thresholds", out=Path(__file__).parents[3])
