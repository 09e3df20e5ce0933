"""The analysis of trainings that should keep modules finds the simulated effects, and no others."""

from __future__ import annotations

import anchoring
import numpy as np
import pandas as pd
import pytest
from anchoring import Pair

METHODS = ("coop", "gda", "maple", "taskres")
TASKS = tuple(f"t{i}" for i in range(8))
MODULES = pd.MultiIndex.from_product([METHODS, TASKS], names=["method", "task"])
PLAIN = [("mini-clip", "mini-eva-clip-anew-5"), ("mini-clip", "mini-eva-clip-anew-6")]
TRAINED = [
    ("mini-clip", f"{name}-{end}")
    for end in ("anchored-1", "anchored-10", "compatible")
    for _, name in PLAIN
]
GROUPS = {"probes": ["gda"], "others": ["coop", "maple", "taskres"]}


def make_values(gained: float, lost: float) -> dict[str, pd.DataFrame]:
    """Return gains of groups and zero-shot's accuracy; every training gains and loses so much."""
    rng = np.random.default_rng(3)
    gains = {}
    accuracy = {}
    for _, name in PLAIN + TRAINED:
        trained = anchoring.split_name(name)[1] != ""
        gains[name] = rng.normal(size=len(MODULES)) + gained * trained
        accuracy[name] = 60 + rng.normal(size=len(TASKS)) / 4 - lost * trained
    zero_shot = pd.DataFrame(accuracy, pd.Index(TASKS, name="task"))
    return anchoring.group_values(pd.DataFrame(gains, MODULES), zero_shot, GROUPS)


def test_a_target_is_compared_with_that_of_its_source_and_seed() -> None:
    trainings = anchoring.find_trainings(PLAIN + TRAINED)
    assert list(trainings) == ["penalty, weight 1", "penalty, weight 10", anchoring.BASELINE]
    first = Pair("mini-clip", "mini-eva-clip-anew-5", "mini-eva-clip-anew-5-anchored-1")
    assert trainings["penalty, weight 1"][0] == first
    alone = [("mini-clip-2", "mini-eva-clip-anew-5-anchored-1"), *PLAIN]
    assert anchoring.find_trainings(alone) == {}


def test_the_answer_says_which_modules_gain_and_what_zero_shot_loses() -> None:
    trainings = anchoring.find_trainings(PLAIN + TRAINED)
    values = make_values(gained=0, lost=0.2)
    for _, name in TRAINED:
        values["probes"][name] += 30
    lines = anchoring.describe_trainings(values, trainings).splitlines()
    assert len(lines) == 3
    for line in lines:
        assert "so it loses less than 2." in line
        assert "gain more: probes;" in line
        assert "no difference is shown: others." in line
    costly = anchoring.describe_trainings(make_values(gained=0, lost=4), trainings)
    assert "a loss of 2 points is not excluded" in costly


def test_the_change_is_the_mean_over_pairs_with_an_interval_over_tasks() -> None:
    trainings = anchoring.find_trainings(PLAIN + TRAINED)
    values = make_values(gained=5, lost=0)
    changes = anchoring.list_changes(values["others"], trainings["penalty, weight 1"])
    assert changes.shape == (len(TASKS), 2)
    change = anchoring.over_tasks(changes)
    assert change.units == len(TASKS)
    assert change.low < 5 < change.high
    assert change.value == pytest.approx(changes.to_numpy().mean())


def test_few_targets_are_shown_one_by_one() -> None:
    changes = pd.DataFrame({0: [1.0, 3.0], 1: [4.0, 4.0]})
    assert anchoring.show_targets(changes) == "+2.0, +4.0"
    assert " to " in anchoring.show_targets(changes.assign(third=[1.0, 1.0]))


def test_penalties_are_compared_with_the_baseline_where_there_is_one() -> None:
    trainings = anchoring.find_trainings(PLAIN + TRAINED)
    table = anchoring.show_baseline(make_values(gained=1, lost=0), trainings)
    assert "penalty, weight 10" in table
    assert table.count("\n| probes |") == 1
    del trainings[anchoring.BASELINE]
    assert anchoring.show_baseline(make_values(gained=1, lost=0), trainings) == ""
