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
    assert "| mean of 3 targets, interval over targets | classifiers on features | 1 |" in shown


def test_a_mean_of_targets_is_over_the_methods_that_all_of_them_have() -> None:
    gains = make_gains().assign(far=lambda table: table["near"].where(table["far"].notna()))
    gains = gains.assign(third=gains["near"])
    shown = word_gains.show_kinds(gains, {"near": "Near."})
    assert "| `near` | all of these methods | 2 | +3.5 " in shown
    # On each target words add 20 points to the only method that all of them have.
    [row] = [line for line in shown.splitlines() if "over targets | all" in line]
    assert row.split(" | ")[1:3] == ["all of these methods", "1"]
    assert row.split(" | ")[3].startswith("+3.5 ")
    assert row.split("|")[-2].strip().startswith("+20.0")
    assert "adapters and caches" not in row


def test_lines_on_targets_count_methods() -> None:
    titles = {"linear_probe": "Linear probe", "tip_adapter": "Tip-Adapter"}
    near, far = word_gains.describe_targets(make_gains(), titles).splitlines()
    assert near.startswith(
        "* `near`: of 2 methods, words are significantly better than copying for 2 and worse for 0."
    )
    assert far == (
        "* `far`: of 1 method, words are significantly better than copying for 0 and worse for 0. "
        "Through words, 0 methods are above zero-shot, and 1 below (Linear probe)."
    )


def test_a_method_needs_both_transfers_on_every_task() -> None:
    gains = word_gains.read_gains(cb.results("mini", ROOT))
    methods = set(gains.index.get_level_values("method"))
    assert {"linear_probe", "tip_adapter", "gda"} <= methods
    # It has no second transfer, it needs no module, and it sees the test images.
    assert methods.isdisjoint({"coop", "zeroshot", "tda"})
    assert gains.groupby(["transfer", "method"]).size().eq(8).all()


def test_a_missing_seed_gives_no_mean() -> None:
    results = cb.results("mini", ROOT)
    frame = results.frame
    lost = (frame["method"] == "gda") & (frame["seed"] == 3) & (frame["transfer"] == "words")
    lost &= frame["backbone"] == "mini-clip-other"
    without = replace(results, suite=replace(results.suite, frame=frame[~lost]))
    gains = word_gains.read_gains(without)
    assert "gda" not in word_gains.methods_on(gains, "mini-clip-other")
    assert "gda" in word_gains.methods_on(gains, "mini-clip-next")


def test_a_target_without_rows_of_words_is_left_out() -> None:
    results = cb.results("mini", ROOT)
    gains = word_gains.read_gains(results)
    frame = results.frame
    kept = frame[(frame["transfer"] != "words") | (frame["backbone"] != "mini-eva-clip")]
    without = replace(results, suite=replace(results.suite, frame=kept))
    assert "mini-eva-clip" in gains.columns
    assert "mini-eva-clip" not in word_gains.read_gains(without).columns
