"""What the owner of a module is told to do, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t, ttest_1samp
from synthetic_results import (
    CELLS,
    COOP,
    TWO_BY_TWO,
    UPGRADE,
    coop_by_way,
    flat,
    make_method,
    make_pairs,
    make_suite,
    on_tasks,
    refuse,
)

from compatbench.extras.advice.cases import estimate_mean, read_cases
from compatbench.extras.advice.verdicts import Advice
from compatbench.results.expected import Expected
from compatbench.results.method_results import MethodResults


def advise(*methods: MethodResults, expected: Expected = TWO_BY_TWO) -> Advice:
    return Advice(tuple(read_cases(make_suite(*methods), expected, UPGRADE, ["coop"])))


@pytest.mark.parametrize(
    ("ways", "verdict", "transfer"),
    [
        ({"copied": 70, "words": 75}, "keep", "copied"),  # not clearly better
        ({"copied": 70, "words": 90}, "port", "words"),
        ({"copied": 70, "distilled": 90, "kept": 90}, "keep", "copied"),  # not without images
        ({"copied": 40, "words": 62}, "port", "words"),
        ({"copied": 55, "words": 62}, "retrain or zero-shot", ""),
        ({"copied": 60}, "retrain or zero-shot", ""),
        ({"copied": 40, "retrained+4": 70, "warm+4": 80}, "retrain", "warm+4"),
        ({"copied": 40, "retrained+4": 60}, "zero-shot", ""),
        ({"words": 90}, "unknown", ""),
    ],
)
def test_the_rule(ways: dict[str, int], verdict: str, transfer: str) -> None:
    found = advise(*(coop_by_way(name, target) for name, target in ways.items()))
    [row] = found.frame.to_dict("records")
    assert (row["verdict"], row["transfer"]) == (verdict, transfer)
    assert row["expected"] == pytest.approx(ways.get(transfer, 60))
    assert (row["tasks"], row["seeds"], row["images"]) == (2, 2, 200)
    assert str(found).splitlines()[1].startswith("coop: ")
    assert max(map(len, str(found).splitlines())) < 80


def test_a_module_is_worth_labels_and_a_refusal_has_its_reason() -> None:
    ways = {"retrained+1": 58, "retrained+2": 64}
    more = [coop_by_way(name, target) for name, target in ways.items()]
    found = advise(coop_by_way("copied", 62), *more)
    assert found.frame["worth"].tolist() == [pytest.approx(1.449, abs=1e-3)]
    prices = found.prices.set_index("way")
    assert prices["needs"].tolist() == ["nothing", "1 label per class", "2 labels per class"]
    assert prices.loc["copied", "worth"] == pytest.approx(1.449, abs=1e-3)
    assert prices["worth_low"].isna().all()  # two tasks are not a sample
    assert prices["worth"].isna().tolist() == [False, True, True]
    lines = str(found).splitlines()
    [place] = [i for i, line in enumerate(lines) if line.split()[:2] == ["way", "needs"]]
    untouched = lines[place + 1]
    assert untouched.split()[:2] == ["untouched", "nothing"]
    assert untouched.split()[-1] == "1.4"
    assert max(map(len, str(found).splitlines())) < 80
    assert "takes 1.4 labelled images per class" in str(found)
    refused = advise(refuse(flat(COOP, 50, 62), "512 is not 768"), *more)
    assert refused.frame["transfer"].tolist() == ["retrained+2"]
    assert "512 is not 768" in str(refused)
    ways = refused.ways.set_index("way")
    assert ways.loc["retrained+2", ["accuracy", "gain"]].tolist() == [64, 4]
    assert np.isnan(ways.loc["copied", "accuracy"])
    missing = make_method(COOP, make_pairs(dict.fromkeys(CELLS[:3], (50, 62))))
    assert advise(missing).frame["verdict"].tolist() == ["unknown"]


def test_an_interval_is_over_images_and_seeds_or_over_tasks() -> None:
    """As the formula is written: Agresti and Caffo's variance, and Student's t."""
    images, way = np.array([40.0, 160.0]), np.array([[50.0, 70.0], [60.0, 65.0], [55.0, 75.0]])
    minus = np.array([[45.0, 60.0]])
    variance = 0.0
    for task, n in enumerate(images):
        for p in (way[:, task].mean() / 100, minus[0, task] / 100):
            adjusted = (p * n + 1) / (n + 2)
            variance += 100**2 * adjusted * (1 - adjusted) / (n + 2) / 2**2
    seeds = [(a + b) / 2 for a, b in way - minus]
    spread = np.std(seeds, ddof=1) / math.sqrt(3)
    half = math.sqrt((norm.ppf(0.975) * math.sqrt(variance)) ** 2 + (t.ppf(0.975, 2) * spread) ** 2)
    found = estimate_mean(images, way, minus)
    assert found is not None
    expected = [np.mean(seeds), np.mean(seeds) - half, np.mean(seeds) + half]
    assert [found.value, found.low, found.high] == pytest.approx(expected, abs=1e-9)
    # All of few images right: the interval still says that the next may be wrong.
    whole = estimate_mean(np.array([20.0]), np.array([[100.0]]))
    assert whole is not None
    assert (whole.value, whole.high) == (100, 100)
    assert 85 < whole.low < 95
    assert estimate_mean(images, np.array([[50.0, np.nan]])) is None
    tasks = ("a", "b", "c", "d", "e", "f")
    many = replace(TWO_BY_TWO, tasks=tasks)
    told = advise(on_tasks("coop", [70, 72, 75, 80, 90, 76]), expected=many)
    assert "Student's t over tasks" in str(told)
    [low, high] = told.frame[["expected_low", "expected_high"]].to_numpy()[0]
    theirs = ttest_1samp([71, 73, 76, 81, 91, 77], 0).confidence_interval()
    assert (low, high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))
