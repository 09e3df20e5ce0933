"""What the owner of a module is told to do, and how sure it is; of several new models, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm, t, ttest_1samp
from synthetic_results import (
    CELLS,
    COOP,
    TWO_BY_TWO,
    UPGRADE,
    by_transfer,
    coop_by_way,
    flat,
    make_method,
    make_pairs,
    make_suite,
    on_tasks,
    refuse,
)

from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.cases import OLD, ZERO_SHOT, Case, estimate_mean, read_cases
from compatbench.extras.advice.price import break_even
from compatbench.extras.advice.targets import describe_target
from compatbench.extras.advice.verdicts import judge
from compatbench.results.expected import Expected
from compatbench.results.method_results import MethodResults

SMALL, LARGE = (
    {"parameters": n, "width": 8, "tokens": None, "image_seconds": None, "licence": "MIT"}
    for n in (1_000_000, 300_000_000)
)


def case(target: str, method: str = "taskres", images: int = 4000, **ways: float) -> Case:
    """A module with 50 % on the old model, and these accuracies on a new one with 60 %."""
    accuracy = {OLD: 50.0, ZERO_SHOT: 60.0} | ways
    rows = {name: np.array([[value]]) for name, value in accuracy.items()}
    return Case(method, ("old", target), 4, ("cats",), np.array([float(images)]), rows, {})


def advise(*methods: MethodResults, expected: Expected = TWO_BY_TWO) -> Advice:
    return Advice(tuple(read_cases(make_suite(*methods), expected, UPGRADE, ["coop"])))


@pytest.mark.parametrize(
    ("ways", "verdict", "transfer"),
    [
        ({"copied": 70, "words": 75}, "keep", "copied"),  # not clearly worse
        ({"copied": 70, "words": 90}, "port", "words"),
        ({"copied": 70, "distilled": 90, "kept": 90}, "port", "distilled"),  # one model at a time
        ({"copied": 70, "words": 72, "retrained+4": 75}, "keep", "copied"),  # free before labels
        ({"copied": 40, "words": 62}, "cannot tell", "words"),
        ({"copied": 60}, "cannot tell", ""),
        ({"copied": 40, "retrained+4": 60}, "cannot tell", ""),
        ({"copied": 61, "retrained+4": 62}, "cannot tell", "copied"),  # meanwhile without labels
        ({"copied": 40, "retrained+4": 70, "warm+4": 80}, "retrain", "warm+4"),
        ({"copied": 51, "retrained+4": 50}, "cannot tell", ""),
        ({"copied": 48, "retrained+4": 45}, "zero-shot", ""),
        ({"copied": 48}, "retrain or zero-shot", ""),
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


def test_a_module_that_takes_words_when_it_is_attached_is_untouched() -> None:
    copied = coop_by_way("copied", 90)
    found = advise(replace(copied, info=replace(copied.info, needs=("words",))))
    [row] = found.frame.to_dict("records")
    assert (row["verdict"], row["transfer"]) == ("keep", "copied")


def test_thirty_images_cannot_tell_and_it_is_said_how_many_would() -> None:
    few = case("new", "coop", 30, copied=66.7)
    row = judge(few)
    assert (row["verdict"], row["transfer"]) == ("cannot tell", "copied")
    gain = few.estimate("copied", ZERO_SHOT)
    # With so many images of the same spread the interval ends at 0.
    reach = (gain.high - gain.low) / 2 * math.sqrt(30 / row["needed"])
    assert reach == pytest.approx(gain.value, rel=0.01)
    said = str(Advice((few,)))
    assert f"cannot tell, about {round(row['needed'], -1):.0f} test images would decide" in said
    assert "meanwhile keep it untouched" in " ".join(said.split())
    many = replace(few, images=np.array([3000.0]))
    assert judge(many)["verdict"] == "keep"


def test_an_upgrade_that_loses_says_to_stay() -> None:
    found = advise(flat(COOP, 90, 70))
    [row] = found.frame.to_dict("records")
    assert (row["verdict"], row["transfer"], row["expected"]) == ("stay", "copied", 90)
    assert row["over_old"] == -20
    assert row["over_old_high"] < 0
    said = " ".join(str(found).split())
    assert "coop: stay with the old model; expect 90.0" in said
    assert "If the old model must go, keep it untouched." in said
    unclear = advise(flat(COOP, 72, 70))
    assert unclear.frame["verdict"].tolist() == ["keep"]
    said = " ".join(str(unclear).split())
    assert "the upgrade loses against the module on the old model (-2.0 (" in said
    assert "staying is a way." in said
    assert "the upgrade loses" not in str(advise(flat(COOP, 70, 72)))


def test_a_module_is_worth_labels_and_a_refusal_has_its_reason() -> None:
    ways = {"retrained+1": 58, "retrained+2": 64}
    more = [coop_by_way(name, target) for name, target in ways.items()]
    found = advise(coop_by_way("copied", 62), *more)
    assert found.frame["worth"].tolist() == [pytest.approx(1.449, abs=1e-3)]
    assert found.frame["worth_same"].tolist() == found.frame["worth"].tolist()
    prices = found.prices.set_index("way")
    assert prices["needs"].tolist() == ["nothing", "1 label per class", "2 labels per class"]
    assert prices["worth"].isna().tolist() == [False, True, True]
    lines = str(found).splitlines()
    [place] = [i for i, line in enumerate(lines) if line.split()[:2] == ["way", "needs"]]
    untouched = lines[place + 1]
    assert untouched.split()[:2] == ["untouched", "nothing"]
    assert untouched.split()[-1] == "1.4"
    assert max(map(len, str(found).splitlines())) < 80
    said = " ".join(str(found).split())
    assert "worth 1.4 labels per class of the best method trained anew, and 1.4 of the same" in said
    assert "No method trained anew with up to 2 labels is shown to be better." in said
    refused = advise(refuse(flat(COOP, 50, 62), "512 is not 768"), *more)
    assert refused.frame["verdict"].tolist() == ["cannot tell"]
    assert "512 is not 768" in str(refused)
    ways = refused.ways.set_index("way")
    assert ways.loc["retrained+2", ["accuracy", "gain"]].tolist() == [64, 4]
    assert np.isnan(ways.loc["copied", "accuracy"])
    missing = make_method(COOP, make_pairs(dict.fromkeys(CELLS[:3], (50, 62))))
    assert advise(missing).frame["verdict"].tolist() == ["unknown"]


def test_the_best_method_trained_anew_is_the_measure_and_the_least_number_is_named() -> None:
    probe = replace(COOP, name="probe", title="Probe")
    others = [
        by_transfer(f"retrained+{k}", flat(probe, 50, target)) for k, target in ((1, 69), (2, 90))
    ]
    own = [coop_by_way(f"retrained+{k}", target) for k, target in ((1, 58), (2, 73))]
    [row] = advise(coop_by_way("copied", 72), *own, *others).frame.to_dict("records")
    assert row["verdict"] == "keep"
    best = break_even(72, (60, 69, 90), (0, 1, 2))
    assert (row["worth"], row["worth_same"]) == (
        pytest.approx(best),
        pytest.approx(break_even(72, (60, 58, 73), (0, 1, 2))),
    )
    assert row["worth"] < row["worth_same"]
    # With one label neither is better; with two CoOp is not, and the probe is.
    assert (row["better_labels"], row["better_method"]) == (2, "probe")


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
    expected = [np.mean(seeds), np.mean(seeds) - half, np.mean(seeds) + half]
    assert [found.value, found.low, found.high] == pytest.approx(expected, abs=1e-9)
    # All of few images right: the interval still says that the next may be wrong.
    whole = estimate_mean(np.array([20.0]), np.array([[100.0]]))
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


def compare(*cases: Case, **facts: Mapping[str, object]) -> pd.DataFrame:
    return Advice(cases, {each.upgrade[1]: SMALL for each in cases} | facts).targets


def test_the_smallest_of_the_models_that_gain_is_taken() -> None:
    near = compare(case("a", copied=80.0), case("b", copied=79.5), a=LARGE)
    assert [*near["target"]] == ["b", "a"]  # not clearly worse than a, and smaller
    assert [*near["chosen"]] == [True, False]
    far = compare(case("a", copied=80.0), case("b", copied=70.0), a=LARGE)
    assert [*far["target"]] == ["a", "b"]
    assert far["over_old"].tolist() == [30.0, 20.0]
    said = str(Advice((case("a", copied=80.0),), {"a": SMALL}))
    assert said.startswith("Take a: of the models on which the module is more accurate than on")


def test_no_model_is_taken_where_none_is_better_than_the_old_one() -> None:
    few = compare(case("a", images=40, copied=62.0), case("b", images=40, copied=55.0))
    assert not few["chosen"].any()
    assert [*few["verdict"]] == ["cannot tell", "cannot tell"]
    # Zero-shot of the new model, where no way of the module gains.
    lost = compare(case("a", copied=20.0))
    assert (lost["verdict"][0], lost["expected"][0]) == ("retrain or zero-shot", 60.0)
    assert lost["over_old"][0] == 10.0


def test_of_several_methods_the_best_is_named_and_survivors_are_counted() -> None:
    tasks = np.arange(8.0)

    def on_tasks(method: str, gain: float) -> Case:
        zero_shot = 50 + tasks[None]
        rows = {OLD: zero_shot - 5, ZERO_SHOT: zero_shot, "copied": zero_shot + gain + tasks / 9}
        names = tuple(f"task-{n:.0f}" for n in tasks)
        return Case(method, ("old", "a"), 4, names, np.full(8, 100.0), rows, {})

    [row] = compare(on_tasks("coop", -6), on_tasks("taskres", 4)).to_dict("records")
    assert (row["method"], row["verdict"]) == ("taskres", "keep")
    assert (row["survives"], row["methods"]) == (1, 2)
    assert row["over_old"] == pytest.approx(9 + tasks.mean() / 9)


def test_what_a_model_costs_is_told() -> None:
    """How targets of a module are shown, ``test_my_upgrade`` says."""
    facts = describe_target("mini-eva-clip", "cpu")
    assert (facts["width"], facts["tokens"], facts["licence"]) == (128, 32, "Apache-2.0")
    assert facts["parameters"] == 4_452_217
    assert facts["image_seconds"] > 0
