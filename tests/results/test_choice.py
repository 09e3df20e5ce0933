"""The one place that decides: which option gains, which to take, and what an owner should do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from compatbench.results.choice import (
    Choice,
    choose_option,
    decide,
    first_better,
    gains_of_choosing,
    judge_effect,
    units_to_decide,
)
from compatbench.results.costs import COST, cost_of, labels_of
from compatbench.results.differences import ZERO_SHOT, compare_tasks
from compatbench.results.estimate import Interval, estimate, p_value
from compatbench.results.ties import compare_with_best

STEPS = np.array([0, 1, 2, 3, 4, 5])


def choose(**options: tuple[float, int] | tuple[float, int, float]) -> Choice:
    """Choose among options, each with a mean gain, a cost, and a spread over six tasks."""
    scores = {}
    costs = {}
    for name, (gain, cost, *spread) in options.items():
        scores[name] = 60 + gain + (spread[0] if spread else 0.2) * (STEPS - 2.5)
        costs[name] = (cost,)
    return choose_option(pd.DataFrame(scores).T, np.full(6, 60.0), costs)


def test_the_cheapest_option_that_is_not_significantly_worse_than_the_best_is_chosen() -> None:
    assert choose(wide=(3, 0, 8), loss=(-3, 0)).option == ""
    assert choose(free=(3, 0), labels=(3, 4)).option == "free"
    assert choose(free=(3, 0), labels=(9, 4)).option == "labels"
    assert choose(few=(9, 1), labels=(9, 4), free=(3, 0)).option == "few"
    # An option that is not shown to gain is not taken.
    assert choose(wide=(3, 0, 8), labels=(9, 4)).option == "labels"
    assert choose(free=(3, 0), better=(3.1, 0, 1)).option == "better"  # for the same cost
    # A wider interval makes no option better than one that is significantly worse.
    assert choose(labels=(5, 4), noisy=(2.9, 1, 1.4)).option == "noisy"
    assert choose(labels=(5, 4), noisy=(2.9, 1, 1.4), free=(3, 0)).option == "labels"


def test_options_of_equal_cost_are_tied_unless_they_are_significantly_worse() -> None:
    chosen = choose(best=(5, 0, 1), other=(4.8, 0, -1), worse=(1, 0), labels=(5, 4))
    assert chosen.option == "best"
    assert chosen.tied == ("best", "other")


def test_an_option_is_only_worse_if_the_difference_says_so() -> None:
    """The option with the highest mean may be worse where both are compared."""
    scores = pd.DataFrame({"free": 65 + 0.1 * STEPS, "labels": 67 + 0.1 * STEPS}).T
    costs = {"free": (0,), "labels": (4,)}

    def difference(option: str, minus: str | None = None) -> Interval | None:
        if minus == ZERO_SHOT:
            return estimate(scores.loc[option] - 60)
        return Interval(-2, -3, -1, 6)

    assert choose_option(scores, np.full(6, 60.0), costs).option == "labels"
    assert choose_option(scores, np.full(6, 60.0), costs, difference).option == "free"


def test_more_options_of_a_cost_do_not_hide_that_a_cheaper_one_is_worse() -> None:
    """Holm's correction is for the options that are compared, one for each cost."""
    free = (3, 0, 0.9)
    noisy = {f"noisy{n}": (8 + n / 100, 4, (-1) ** n * 0.1) for n in range(40)}
    assert choose(free=free, noisy0=noisy["noisy0"]).option == "noisy0"
    assert choose(free=free, **noisy).option == "noisy39"


def test_a_choice_must_also_gain_on_the_task_left_out() -> None:
    """Each of six methods is much better on one task, so the best on five is not on the sixth."""
    scores = pd.DataFrame(60.5 + 30 * np.eye(6) - 1, index=list("abcdef"))
    costs = dict.fromkeys("abcdef", (0,))
    chosen = choose_option(scores, np.full(6, 60.0), costs)
    assert chosen.option == ""
    assert chosen.held_out is not None
    assert chosen.held_out.value == pytest.approx(-0.5)


def test_choosing_is_judged_on_the_task_left_out() -> None:
    gains = np.random.default_rng(1).normal(size=(30, 7))
    expected = []
    for task in range(7):
        others = np.delete(gains, task, axis=1).mean(axis=1)
        expected.append(gains[others.argmax(), task])
    assert gains_of_choosing(gains).tolist() == pytest.approx(expected)


def test_the_p_value_of_an_interval_is_that_of_the_paired_test() -> None:
    means = np.array([[70], [60], [66], [69], [64]])
    scores = pd.DataFrame(means + np.random.default_rng(2).normal(0, 3, size=(5, 8)))
    compared = compare_with_best(scores)
    [best, *others] = compared.index
    p_values = []
    for other in others:
        interval = estimate(scores.loc[best] - scores.loc[other])
        assert interval is not None
        p_values.append(p_value(interval))
        assert (p_values[-1] < 0.05) == (judge_effect(interval) == "gains")
    # Holm's correction multiplies the least by their number.
    assert min(compared["p"].iloc[1:]) == pytest.approx(4 * min(p_values))
    assert p_value(Interval(2.0, units=1)) == 1
    assert p_value(Interval(2.0, 2.0, 2.0, 6)) == 0


def make_options(*transfers: str) -> pd.DataFrame:
    rows = []
    for transfer in transfers:
        about = {"transfer": transfer, "old": "old", "not_attached": False}
        rows.append(about | dict(zip(COST, cost_of(transfer), strict=True)))
    return pd.DataFrame(rows, index=list(transfers))


@pytest.mark.parametrize(
    ("accuracies", "verdict", "option"),
    [
        ({"copied": 70.0, "words": 70.1}, "keep", "copied"),
        ({"copied": 70.0, "words": 80.0}, "port", "words"),
        ({"copied": 40.0, "retrained+4": 80.0}, "retrain", "retrained+4"),
        ({"copied": 40.0}, "retrain or zero-shot", ""),
        ({"copied": 40.0, "retrained+4": 50.0}, "zero-shot", ""),
        ({"copied": 60.1, "retrained+4": 60.2}, "cannot tell", "copied"),
        ({"copied": 59.9}, "cannot tell", ""),
        ({"words": 80.0}, "unknown", ""),
        ({"copied": 70.0, "old": 90.0}, "stay", "copied"),
    ],
)
def test_the_verdict_on_a_module(accuracies: dict[str, float], verdict: str, option: str) -> None:
    rows = {ZERO_SHOT: 60.0, "old": 50.0} | accuracies
    noise = np.random.default_rng(3).normal(0, 1, size=(len(rows), 8))
    noise -= noise.mean(axis=1, keepdims=True)
    scores = pd.DataFrame(noise, index=list(rows)).add(pd.Series(rows), axis="index")
    options = make_options(*[name for name in accuracies if name != "old"])
    decision = decide(options, compare_tasks(scores))
    assert (decision.verdict, decision.option) == (verdict, option)
    assert (decision.needed is None) == (verdict != "cannot tell")


def test_nothing_measured_is_no_loss() -> None:
    accuracies = pd.DataFrame({"old": [50.0, 51.0], ZERO_SHOT: [60.0, 61.0]}).T
    options = make_options("copied", "retrained+4")
    options["not_attached"] = [True, False]  # retraining was not measured
    decision = decide(options, compare_tasks(accuracies))
    assert (decision.verdict, decision.option) == ("unknown", "")
    assert not decision.choice.all_lose
    decision = decide(options.iloc[:1], compare_tasks(accuracies))
    assert (decision.verdict, decision.option) == ("retrain or zero-shot", "")


def test_the_least_number_of_labels_is_of_the_most_accurate_method() -> None:
    option = np.full(6, 50.0)
    scores = {
        "option": option,
        "x1": option - 9,
        "y1": option + 9 * (STEPS - 2),
        "x4": option + STEPS,
        "y4": option - 5,
    }
    retrained = {1: {"x1": 41.0, "y1": 54.5}, 4: {"x4": 52.5, "y4": 45.0}}
    frame = pd.DataFrame(scores).T
    found = first_better("option", retrained, compare_tasks(frame))
    assert found is not None
    labels, name, gain = found
    assert (labels, name) == (4, "x4")
    assert gain.low > 0
    frame.loc["option"] += 9
    assert first_better("option", retrained, compare_tasks(frame)) is None


def test_units_to_decide_follow_from_the_interval() -> None:
    assert units_to_decide(Interval(2, -2, 6, 10), 10) == 40
    assert units_to_decide(Interval(2, 1, 3, 7), 7) == 6
    assert units_to_decide(Interval(0, -1, 1, 7), 7) == np.inf
    assert units_to_decide(Interval(1, units=1), 1) == np.inf


def test_the_labels_of_validation_images_count() -> None:
    """Up to 4 per class choose the settings, besides those in the name of a transfer."""
    names = ("retrained+1", "retrained+4", "retrained+16", "warm+pull+4", "words")
    assert [labels_of(name) for name in names] == [2, 8, 20, 8, 0]
    assert cost_of("retrained+16")[0] == 20
