"""The finding on words: which methods are compared, and what their means are over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import word_gains

import compatbench as cb

ROOT = Path(__file__).parents[2]
TASKS = [f"t{number}" for number in range(8)]


def make_gains() -> pd.DataFrame:
    """Return gains on two targets: words add 20 points to one method, and 10 to another."""
    rows = {}
    for task in TASKS:
        place = TASKS.index(task)
        for transfer, added in (("copied", 0.0), ("words", 20.0)):
            rows[transfer, "linear_probe", task] = {"near": place + added, "far": place - 30.0}
        for transfer, added in (("copied", 0.0), ("words", 10.0)):
            rows[transfer, "tip_adapter", task] = {"near": place + added, "far": float("nan")}
    frame = pd.DataFrame(rows).T
    return frame.rename_axis(["transfer", "method", "task"])


def test_means_are_over_the_methods_that_were_measured_on_the_target() -> None:
    gains = make_gains()
    assert word_gains.methods_on(gains, "near") == ["linear_probe", "tip_adapter"]
    assert word_gains.methods_on(gains, "far") == ["linear_probe"]
    both = word_gains.mean_by_task(gains, ["linear_probe", "tip_adapter"], "near")
    compared = word_gains.compare(both)
    difference = compared["difference"]
    assert difference is not None
    assert difference.value == pytest.approx(15)
    assert difference.units == len(TASKS)


def test_targets_have_an_interval_only_if_there_are_three() -> None:
    gains = make_gains()
    assert "mean of" not in word_gains.show_kinds(gains, {"near": "Near.", "far": "Far."})
    gains = gains.assign(other=gains["near"] + 1, third=gains["near"] + 2)
    shown = word_gains.show_kinds(gains.drop(columns="far"), {"near": "Near."})
    assert "| mean of 3 targets | classifiers on features |" in shown


def test_a_method_needs_both_transfers_on_every_task() -> None:
    gains = word_gains.read_gains(cb.results("mini", ROOT))
    methods = set(gains.index.get_level_values("method"))
    assert {"linear_probe", "tip_adapter", "gda"} <= methods
    # It has no second transfer, it needs no module, and it sees the test images.
    assert methods.isdisjoint({"coop", "zeroshot", "tda"})
    assert gains.groupby(["transfer", "method"]).size().eq(8).all()


def test_a_target_without_rows_of_words_is_left_out() -> None:
    results = cb.results("mini", ROOT)
    gains = word_gains.read_gains(results)
    frame = results.frame
    kept = frame[(frame["transfer"] != "words") | (frame["backbone"] != "mini-eva-clip")]
    without = replace(results, suite=replace(results.suite, frame=kept))
    assert "mini-eva-clip" in gains.columns
    assert "mini-eva-clip" not in word_gains.read_gains(without).columns
