"""The finding on other classes: losses are differences of gains, of methods with every result."""

from __future__ import annotations

from pathlib import Path

import new_classes
import pytest

import compatbench as cb
from compatbench.results.estimate import Interval

ROOT = Path(__file__).parents[2]


def test_the_answer_counts_losses_that_are_larger_and_smaller_on_other_classes() -> None:
    above = Interval(2, 1, 3, 8)
    below = Interval(-2, -3, -1, 8)
    unclear = Interval(0, -1, 1, 8)
    found = {new_classes.OWN: [above] * 3, new_classes.OTHER: [unclear] * 3}
    none_larger = found | {new_classes.FORGOTTEN: [below, below, unclear]}
    one_larger = found | {new_classes.FORGOTTEN: [below, above, above]}
    answer = new_classes.describe_answer(none_larger)
    assert answer.endswith("on the other half in no case, and significantly smaller in 2 of 3.")
    answer = new_classes.describe_answer(one_larger)
    assert answer.endswith(
        "on the other half in 2 of 3 cases, and significantly smaller in 1 of 3."
    )


def test_losses_are_differences_of_the_gains_on_source_and_target() -> None:
    results = cb.results(new_classes.SUITE, ROOT)
    losses = new_classes.read_losses(results)
    frame = results.frame
    task = "mini-faces.base"
    of_coop = frame[(frame["method"] == "coop") & (frame["transfer"] == "copied")]
    of_coop = of_coop[(of_coop["task"] == task) & (of_coop["test_set"] == "mini-faces.new")]
    gains = of_coop.groupby("backbone")["gain"].mean()
    row = losses[losses["target"] == "mini-eva-clip"].loc[("coop", task)]
    assert row["other"] == pytest.approx(gains["mini-clip"] - gains["mini-eva-clip"])
    assert row["forgotten"] == pytest.approx(row["other"] - row["own"])
    # Its module knows only the classes that it was trained on.
    assert "linear_probe" not in losses.index.get_level_values("method")
    assert losses.groupby(["method", "target"]).size().eq(8).all()
