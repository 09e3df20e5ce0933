"""The fit of what ``predict`` predicts with: beside naive formulas, and as it is committed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from pages import DOCS
from predict_page import (
    ALPHA,
    FLOOR,
    SHIPPED,
    Inputs,
    add_groups,
    find_held,
    fit_ridge,
    fit_shipped,
    follow,
    judge,
    leave_out,
    read_rows,
    split_by,
    width_of,
)
from predict_rows import ROWS

from compatbench.files.hashes import sha256_bytes
from compatbench.transfers._shared.survival import read_estimators

INPUTS = Inputs(("differ", "sides"), FLOOR)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Gains of 3 methods on 12 upgrades, which a feature tells but for noise."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        [
            ("s", method, "copied", task, "a", f"b{upgrade}")
            for method in "xyz"
            for task in range(10)
            for upgrade in range(12)
        ],
        columns=["suite", "method", "transfer", "task", "source", "target"],
    )
    frame["differ"] = rng.uniform(0.1, 0.6, len(frame))
    frame["sides"] = frame["differ"] * rng.uniform(-1, 1, len(frame))
    frame["gain"] = 0.5 * frame["sides"] + 0.05 * frame["differ"] * rng.normal(size=len(frame))
    frame["gated"] = frame["gain"].clip(lower=0).where(frame["method"] == "x")
    for name in ("agreement", "doc", "atc", "sides_source"):
        frame[name] = frame["sides"]
    frame["text-input"] = rng.normal(size=len(frame))
    frame["classifier"] = (frame["method"] == "z").astype(float)  # a family of its own
    return add_groups(frame.assign(unrelated=(frame["target"] < "b5").astype(float)))


def test_the_fit_is_the_weighted_ridge_and_intervals_hold_where_rows_are_alike(rows) -> None:
    found = fit_ridge(rows, INPUTS)
    x, y = rows[["differ", "sides"]].to_numpy(), rows["gain"].to_numpy()
    sizes, weights = x.std(0), 1 / (rows["differ"].to_numpy() + FLOOR)
    z = x / sizes
    naive = np.linalg.solve(z.T @ (weights[:, None] * z) + ALPHA * np.eye(2), z.T @ (weights * y))
    assert found.weights == pytest.approx(naive / sizes, abs=1e-9)
    left = np.abs(y - leave_out(rows, INPUTS, split_by(rows))) * weights
    # The ⌈0.9 · 361⌉-th of 360.
    assert width_of(rows, INPUTS) == pytest.approx(np.sort(left)[324], abs=1e-9)
    assert 0.85 <= find_held(rows, INPUTS).mean() <= 0.95


@pytest.mark.slow
def test_what_is_judged_is_not_in_the_fit_and_advice_takes_the_best_way(rows) -> None:
    # An upgrade whose gains are turned is predicted by the others, and so with the wrong sign.
    turned = rows.assign(gain=rows["gain"].where(rows["target"] != "b0", -rows["gain"]))
    estimates = leave_out(turned, INPUTS, split_by(turned))
    own = (turned["target"] == "b0").to_numpy()
    assert np.corrcoef(estimates[own], turned["gain"][own])[0, 1] < -0.9
    report = judge(rows)
    scores = report.scores.set_index(["title", "without"])["auroc"]
    assert scores["ridge, unlabelled images", "method"] > 0.9
    assert "single upgrades have an AUROC of 0." in report.markdown()
    measured = 100 * rows.loc[rows["method"] == "x", "gated"].mean()
    gated = "transfer gated (s), from training images without labels"
    assert f"{gated}: +{measured:.1f} (" in report.markdown()
    assert abs(scores["ridge, models alone", "model"] - 0.5) < 0.1  # of noise
    assert scores["ridge, unlabelled images", "upgrade, family and task"] > 0.9
    assert scores["ridge of two features", "upgrade"] > 0.9
    for own, rest in split_by(rows, "together"):
        for column in ("target", "task", "family"):
            assert not {*rows.loc[own, column]} & {*rows.loc[rest, column]}
    for name in ("text-input", "classifier"):
        assert f"| {name} " in report.markdown()
    [(own, rest), *_] = split_by(rows.assign(source=["b0", "a"] * (len(rows) // 2)), "model")
    assert not (own & rest).any()
    assert (own | rest).sum() < len(rows)  # what starts at the model is in neither
    ways = pd.concat([rows.head(1), rows.head(1).assign(transfer="words", gain=0.3)])
    assert follow(ways, np.array([0.1, 0.2])).tolist() == [0.3]
    assert follow(ways, np.array([-0.1, -0.2])).tolist() == [0.0]


@pytest.mark.slow
def test_the_estimators_that_ship_are_those_of_the_committed_rows() -> None:
    written = json.loads((DOCS / SHIPPED).read_text())
    assert written["provenance"]["rows"] == sha256_bytes(ROWS.read_bytes())
    fitted = fit_shipped(read_rows())
    assert read_estimators().keys() == fitted.keys()
    for name, one in read_estimators().items():
        assert one.features == fitted[name].features
        assert one.weights == pytest.approx(fitted[name].weights, rel=1e-3)
        assert one.width == pytest.approx(fitted[name].width, rel=1e-3)
