"""The advice to the owner of a module, and how sure it is; of several new models, too."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from made_results import (
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
from scipy.stats import ttest_1samp

from compatbench.engine.single_module import Fitted
from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.asked import Asked
from compatbench.extras.advice.measurements import (
    Answered,
    Counts,
    Measurements,
    measure_answers,
    measure_evaluations,
    read_measurements,
)
from compatbench.extras.advice.price import break_even
from compatbench.extras.advice.targets import describe_target, judge_target
from compatbench.extras.advice.verdicts import judge
from compatbench.method.predictions import Predictions
from compatbench.results.differences import OLD, ZERO_SHOT
from compatbench.results.estimate import Array
from compatbench.results.evaluation import Evaluation
from compatbench.results.expected import Expected
from compatbench.results.measures import Answers
from compatbench.results.options import describe_option, option_name, options_frame
from compatbench.results.stored_method import StoredMethod
from compatbench.results.verdict_lines import show_verdict

SMALL, LARGE = (
    {"parameters": n, "width": 8, "tokens": None, "licence": "MIT"}
    for n in (1_000_000, 300_000_000)
)


def measure(
    target: str, method: str = "taskres", images: int = 4000, **options: float
) -> Measurements:
    """Return a module with 50 % on the old model, and these accuracies on one with 60 %."""
    names = {OLD: option_name(method, OLD), ZERO_SHOT: ZERO_SHOT}
    accuracies = {OLD: 50.0, ZERO_SHOT: 60.0} | options
    total = np.array([[float(images)]])
    counts = {}
    for name, accuracy in accuracies.items():
        correct = np.array([[accuracy * images / 100]])
        counts[names.get(name, option_name(method, name))] = Counts(total, correct)
    described = {option_name(method, name): describe_option(method, name, None) for name in options}
    scores = {name: [100 * count.correct[0, 0] / images] for name, count in counts.items()}
    return Measurements(
        upgrade=("old", target),
        shots=4,
        tasks=("cats",),
        seeds=1,
        images=images,
        options=options_frame(described),
        scores=pd.DataFrame.from_dict(scores, "index"),
        counts=counts,
    )


def advise(*methods: StoredMethod, expected: Expected = TWO_BY_TWO) -> Advice:
    return Advice((read_measurements(make_suite(*methods), expected, UPGRADE, ["coop"]),))


@pytest.mark.parametrize(
    ("options", "verdict", "transfer"),
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
def test_the_rule(options: dict[str, int], verdict: str, transfer: str) -> None:
    found = advise(*(coop_by_way(name, target) for name, target in options.items()))
    [row] = found.frame.to_dict("records")
    assert (row["verdict"], row["transfer"]) == (verdict, transfer)
    assert row["expected"] == pytest.approx(options.get(transfer, 60))
    assert (row["tasks"], row["seeds"], row["images"]) == (2, 2, 200)
    assert str(found).splitlines()[1].startswith("coop: ")
    assert max(map(len, str(found).splitlines())) < 80


def test_a_module_that_takes_words_when_it_is_attached_is_untouched() -> None:
    copied = coop_by_way("copied", 90)
    found = advise(replace(copied, info=replace(copied.info, needs=("words",))))
    [row] = found.frame.to_dict("records")
    assert (row["verdict"], row["transfer"]) == ("keep", "copied")


def test_thirty_images_cannot_tell_and_it_is_said_how_many_would() -> None:
    few = measure("new", "coop", 30, copied=66.7)
    row = judge(few, "coop")
    assert (row["verdict"], row["transfer"]) == ("cannot tell", "copied")
    gain = few.difference("coop copied", ZERO_SHOT)
    assert gain is not None
    # With so many images of the same spread the interval ends at 0.
    reach = (gain.high - gain.low) / 2 * math.sqrt(30 / row["needed"])
    assert reach == pytest.approx(gain.value, rel=0.01)
    said = str(Advice((few,)))
    assert f"cannot tell, about {round(row['needed'], -1):.0f} test images would decide" in said
    assert "meanwhile keep it untouched" in " ".join(said.split())
    many = measure("new", "coop", 3000, copied=66.7)
    assert judge(many, "coop")["verdict"] == "keep"


def test_an_upgrade_that_loses_says_to_stay() -> None:
    found = advise(flat(COOP, 90, 70))
    [row] = found.frame.to_dict("records")
    assert (row["verdict"], row["transfer"], row["expected"]) == ("stay", "copied", 90)
    assert row["over_old"] == -20
    assert row["over_old_high"] < 0
    said = " ".join(found.details().split())
    assert "coop: stay with the old model; expect 90.0" in said
    assert ", gain on the new model +" in said
    assert "If the old model must go, keep it untouched." in said
    unclear = advise(flat(COOP, 72, 70))
    assert unclear.frame["verdict"].tolist() == ["keep"]
    said = " ".join(unclear.details().split())
    assert "The upgrade changes accuracy by -2.0 (" in said
    assert "staying is an option." in said
    assert "The upgrade changes" not in advise(flat(COOP, 70, 72)).details()


def test_a_module_is_worth_labels_and_a_refusal_has_its_reason() -> None:
    retrained = {"retrained+1": 58, "retrained+2": 64}
    more = [coop_by_way(name, target) for name, target in retrained.items()]
    found = advise(coop_by_way("copied", 62), *more)
    assert found.frame["worth"].tolist() == [pytest.approx(2.873, abs=1e-3)]
    assert found.frame["worth_same"].tolist() == found.frame["worth"].tolist()
    prices = found.prices.set_index("option")
    assert prices["needs"].tolist() == ["nothing", "2 labels per class", "4 labels per class"]
    assert prices["worth"].isna().tolist() == [False, True, True]
    lines = found.details().splitlines()
    [place] = [i for i, line in enumerate(lines) if line.split()[:2] == ["option", "needs"]]
    untouched = lines[place + 1]
    assert untouched.split()[:2] == ["untouched", "nothing"]
    assert untouched.split()[-1] == "2.9"
    assert max(map(len, found.details().splitlines())) < 80
    said = " ".join(found.details().split())
    assert "worth 2.9 labels per class of the best retrained method, and 2.9 of the same" in said
    assert "No method retrained with up to 4 labels per class is significantly better." in said
    refused = advise(refuse(flat(COOP, 50, 62), "512 is not 768"), *more)
    assert refused.frame["verdict"].tolist() == ["cannot tell"]
    assert "512 is not 768" in refused.details()
    options = refused.options.set_index("option")
    assert options.loc["retrained+2", ["accuracy", "gain"]].tolist() == [64, 4]
    assert np.isnan(options.loc["copied", "accuracy"])
    missing = make_method(COOP, make_pairs(dict.fromkeys(CELLS[:3], (50, 62))))
    assert advise(missing).frame["verdict"].tolist() == ["unknown"]


def test_the_best_retrained_method_is_the_measure_and_the_least_number_is_named() -> None:
    probe = replace(COOP, name="probe", title="Probe")
    others = [
        by_transfer(f"retrained+{k}", flat(probe, 50, target)) for k, target in ((1, 69), (2, 90))
    ]
    own = [coop_by_way(f"retrained+{k}", target) for k, target in ((1, 58), (2, 73))]
    [row] = advise(coop_by_way("copied", 72), *own, *others).frame.to_dict("records")
    assert row["verdict"] == "keep"
    best = break_even(72, (60, 69, 90), (0, 2, 4))
    assert (row["worth"], row["worth_same"]) == (
        pytest.approx(best),
        pytest.approx(break_even(72, (60, 58, 73), (0, 2, 4))),
    )
    assert row["worth"] < row["worth_same"]
    # With two labels neither is better; with four CoOp is not, and the probe is.
    assert (row["better_labels"], row["better_method"]) == (4, "probe")


def test_retrained_modules_are_not_taken_for_the_old_one() -> None:
    copied = coop_by_way("copied", 70)
    incomplete = replace(copied, rows=copied.rows.iloc[1:])  # a row on the old model is missing
    pairs = dict.fromkeys(CELLS, (90, 90))
    anew = make_pairs(pairs, source="new")
    retrained = make_method(COOP, [row for row in anew if row.backbone == "new"])
    expected = replace(TWO_BY_TWO, retrained=True)
    results = make_suite(incomplete, retrained)
    measured = read_measurements(results, expected, UPGRADE, ["coop"])
    old = option_name("coop", OLD)
    assert measured.difference("coop retrained+4") is not None
    assert measured.difference(old) is None
    assert old not in measured.scores.index
    complete = read_measurements(make_suite(copied, retrained), expected, UPGRADE, ["coop"])
    assert complete.scores.loc[old].tolist() == [50.0, 50.0]


def evaluation_of(module: Array, zero_shot: Array) -> Evaluation:
    """Return an evaluation of CoOp, with 1 where the module or zero-shot is right, ``[images]``."""
    labels = np.zeros(len(module), dtype=np.int64)
    answers = []
    for right in (module, zero_shot):
        classes = torch.as_tensor(1 - right, dtype=torch.int32)
        answers.append(Predictions(classes, torch.ones(len(right))))
    target = Answers(answers[0], None, answers[1], labels)
    source = Answers(answers[0], None, answers[1], labels)
    fitted = Fitted(method="coop", config={}, task="cats", source="old", shots=4, seed=1)
    return Evaluation(fitted, "new", "cats", source, target)


@pytest.mark.parametrize(
    ("only_module", "only_zero_shot", "effect", "verdict"),
    [
        (3, 5, "cannot tell", "cannot tell"),
        (0, 10, "loses", "retrain or zero-shot"),
        (10, 0, "gains", "keep"),
    ],
)
def test_evaluate_and_advise_agree_on_the_same_images(
    only_module: int, only_zero_shot: int, effect: str, verdict: str
) -> None:
    zero_shot = np.arange(30) < 12 + only_zero_shot
    module = (np.arange(30) < 12) | (np.arange(30) >= 30 - only_module)
    evaluation = evaluation_of(module.astype(int), zero_shot.astype(int))
    advice = Advice((measure_evaluations([("coop", evaluation)]),))
    [row] = advice.frame.to_dict("records")
    assert (evaluation.verdict, row["verdict"]) == (effect, verdict)
    assert evaluation.effect is not None
    copied = advice.options.set_index("option").loc["copied"]
    interval = (evaluation.effect.value, evaluation.effect.low, evaluation.effect.high)
    assert tuple(copied[["gain", "gain_low", "gain_high"]]) == interval
    # The counts of a row say the same as the images themselves.
    measured = measure("new", "coop", 30, copied=100 * module.mean())
    assert measured.counts is not None
    options = dict(measured.counts)
    correct = np.array([[float(module.sum())]])
    gained = {ZERO_SHOT: np.array([[float(only_module)]])}
    lost = {ZERO_SHOT: np.array([[float(only_zero_shot)]])}
    options["coop copied"] = Counts(np.array([[30.0]]), correct, gained, lost)
    options[ZERO_SHOT] = Counts(np.array([[30.0]]), np.array([[float(zero_shot.sum())]]))
    by_counts = replace(measured, counts=options).difference("coop copied", ZERO_SHOT)
    assert by_counts is not None
    assert (by_counts.value, by_counts.low, by_counts.high) == pytest.approx(interval)


def test_a_null_module_is_named_and_no_number_of_images_is_asked_for() -> None:
    zero_shot = (np.arange(30) < 20).astype(int)
    evaluation = evaluation_of(zero_shot, zero_shot)
    measured = measure_evaluations([("coop", evaluation)])
    again = ("advise", "photos", "--module", "coop.safetensors", "--target", "new")
    shown = [str(evaluation), str(Advice((measured,), {"new": SMALL}, Asked(again)))]
    for text in shown:
        verdict, _, following, *_ = text.splitlines()
        assert verdict.startswith(
            "new: coop is null: it changes fewer than 1 % of the zero-shot predictions; use "
            "zero-shot; expect 66.7 "
        )
        assert "methods" in following
        assert "clip_lora" in following
        assert "coop" not in following
    following = "compatbench advise photos --source old --target new --methods clip_lora"
    assert f"next: {following}  # or use zero-shot" in shown[1]
    changed = zero_shot.copy()
    changed[19:21] = 0, 1
    assert "null" not in str(evaluation_of(changed, zero_shot))


def test_the_option_that_more_images_would_decide_on_is_named() -> None:
    zero_shot = (np.arange(60) < 40).astype(float)[None]
    gains = {("ape", "copied"): 1, ("proker", "copied"): 1, ("proker", "retrained+4"): 3}
    answered = []
    for (method, transfer), gain in gains.items():
        right = (np.arange(60) < 40 + gain).astype(float)[None]
        right[0, 0] = 0
        answered.append(Answered(method, transfer, right))
    measured = measure_answers(("old", "new"), answered, zero_shot, ["cats"], np.zeros(60))
    verdict = show_verdict(judge_target(measured))
    assert re.search(r"about [\d,]+ test images would decide on proker retrained\+4;", verdict)


def test_rows_that_count_the_images_of_one_classifier_alone_have_narrower_intervals() -> None:
    """All 10 images that the module gains are among the 40 that zero-shot gets wrong."""
    without = coop_by_way("copied", 70)
    on_target = without.rows["backbone"] == "new"
    pairs = {"only_module": 12, "only_zeroshot": 2}
    rows = without.rows.assign(
        **{name: without.rows[name].mask(on_target, number) for name, number in pairs.items()}
    )
    gains = []
    for method in (without, replace(without, rows=rows)):
        [row] = advise(method).frame.to_dict("records")
        assert row["gain"] == pytest.approx(10)
        gains.append(row["gain_high"] - row["gain_low"])
    assert gains[1] < 0.6 * gains[0]


def test_an_interval_is_over_tasks_from_six_tasks_on() -> None:
    tasks = ("a", "b", "c", "d", "e", "f")
    many = replace(TWO_BY_TWO, tasks=tasks)
    told = advise(on_tasks("coop", [70, 72, 75, 80, 90, 76]), expected=many)
    assert "intervals are over tasks (Student's t)" in " ".join(str(told).split())
    [low, high] = told.frame[["expected_low", "expected_high"]].to_numpy()[0]
    theirs = ttest_1samp([71, 73, 76, 81, 91, 77], 0).confidence_interval()
    assert (low, high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def compare(*measured: Measurements, **facts: Mapping[str, object]) -> pd.DataFrame:
    return Advice(measured, {each.upgrade[1]: SMALL for each in measured} | facts).targets


def test_the_smallest_of_the_models_that_gain_is_taken() -> None:
    near = compare(measure("a", copied=80.0), measure("b", copied=79.5), a=LARGE)
    assert [*near["target"]] == ["b", "a"]  # not significantly worse than a, and smaller
    assert [*near["chosen"]] == [True, False]
    far = compare(measure("a", copied=80.0), measure("b", copied=70.0), a=LARGE)
    assert [*far["target"]] == ["a", "b"]
    assert far["over_old"].tolist() == [30.0, 20.0]
    said = str(Advice((measure("a", copied=80.0),), {"a": SMALL}))
    assert said.startswith("Take a: of the models on which the module is more accurate than on")


def test_no_model_is_taken_where_none_is_better_than_the_old_one() -> None:
    few = compare(measure("a", images=40, copied=62.0), measure("b", images=40, copied=55.0))
    assert not few["chosen"].any()
    assert [*few["verdict"]] == ["cannot tell", "cannot tell"]
    # Zero-shot of the new model, where no option of the module gains.
    lost = compare(measure("a", copied=20.0))
    assert (lost["verdict"][0], lost["expected"][0]) == ("retrain or zero-shot", 60.0)
    assert lost["over_old"][0] == 10.0


def test_of_several_methods_the_best_is_named_and_survivors_are_counted() -> None:
    tasks = np.arange(8.0)

    scores = {ZERO_SHOT: 50 + tasks}
    described = {}
    for method, gain in (("coop", -6), ("taskres", 4)):
        scores[option_name(method, OLD)] = 45 + tasks
        name = option_name(method, "copied")
        scores[name] = 50 + tasks + gain + tasks / 9
        described[name] = describe_option(method, "copied", None)
    measured = Measurements(
        upgrade=("old", "a"),
        shots=4,
        tasks=tuple(f"task-{n:.0f}" for n in tasks),
        seeds=1,
        images=800,
        options=options_frame(described),
        scores=pd.DataFrame.from_dict(scores, "index"),
    )
    [row] = compare(measured).to_dict("records")
    assert (row["method"], row["verdict"]) == ("taskres", "keep")
    assert (row["survives"], row["methods"]) == (1, 2)
    assert row["over_old"] == pytest.approx(9 + tasks.mean() / 9)


def test_what_a_model_costs_is_told() -> None:
    """How targets of a module are shown, ``test_my_upgrade`` says."""
    facts = describe_target("mini-eva-clip")
    assert (facts["width"], facts["tokens"], facts["licence"]) == (128, 32, "Apache-2.0")
    assert facts["parameters"] == 4_452_217
