"""Several new models side by side: which to take, and what each costs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from compatbench.extras.advice.advice import Advice
from compatbench.extras.advice.cases import OLD, ZERO_SHOT, Case
from compatbench.extras.advice.targets import describe_target

SMALL, LARGE = (
    {"parameters": n, "width": 8, "tokens": None, "image_seconds": None, "licence": "MIT"}
    for n in (1_000_000, 300_000_000)
)


def case(target: str, method: str = "taskres", images: int = 4000, **ways: float) -> Case:
    """A module with 50 % on the old model, and these accuracies on a new one with 60 %."""
    accuracy = {OLD: 50.0, ZERO_SHOT: 60.0} | ways
    rows = {name: np.array([[value]]) for name, value in accuracy.items()}
    return Case(method, ("old", target), 4, ("cats",), np.array([float(images)]), rows, {})


def compare(*cases: Case, **facts: Mapping[str, object]) -> pd.DataFrame:
    return Advice(cases, {each.upgrade[1]: SMALL for each in cases} | facts).targets


def test_the_smallest_of_the_models_that_gain_is_taken() -> None:
    near = compare(case("a", copied=80.0), case("b", copied=79.5), a=LARGE)
    assert [*near["target"]] == ["b", "a"]  # not clearly worse than a, and smaller
    assert [*near["chosen"]] == [True, False]
    far = compare(case("a", copied=80.0), case("b", copied=70.0), a=LARGE)
    assert [*far["target"]] == ["a", "b"]
    assert far["over_old"].tolist() == [30.0, 20.0]


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
