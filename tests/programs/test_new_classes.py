"""The finding on other classes: losses are differences of gains, of methods with every result."""

from __future__ import annotations

from pathlib import Path

import new_classes
import pytest

import compatbench as cb

ROOT = Path(__file__).parents[2]


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
