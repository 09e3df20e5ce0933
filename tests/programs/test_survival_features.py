"""The prediction of survival: its features, what is left out, and what it is judged by."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import survival_features
import torch

from compatbench.method.predictions import Predictions

TARGETS = ("near", "far", "next", "other")
TASKS = tuple(f"t{number}" for number in range(8))


def make_rows(seed: int = 1) -> pd.DataFrame:
    """Return rows in which the gain is half of the second feature, with a little noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for target in TARGETS:
        for task in TASKS:
            for method in ("coop", "gda", "linear_probe", "maple"):
                changed = rng.uniform(0.1, 0.5)
                sided = rng.uniform(-1, 1) * changed
                rows.append(
                    {
                        "method": method,
                        "task": task,
                        "target": target,
                        "seed": 1,
                        "gained": sided / 2 + rng.normal() / 200,
                        "changed": changed,
                        "sided": sided,
                        "doc": rng.normal(),
                        "atc": rng.normal(),
                    }
                )
    return pd.DataFrame(rows)


def predictions(*classes: int, confidence: tuple[float, ...] = (0.5, 0.6, 0.7, 0.9)) -> Predictions:
    """Return predictions with confidences in the precision in which they are stored."""
    return Predictions(torch.tensor(classes, dtype=torch.int32), torch.tensor(confidence).half())


def test_features_count_changed_images_and_the_side_that_the_old_module_takes() -> None:
    old = predictions(0, 1, 2, 3)
    new = predictions(0, 1, 1, 1)
    zero_shot = predictions(1, 1, 2, 0)
    # The module changes images 0, 2 and 3. On the old model it agrees with the change of image 0,
    # with zero-shot on image 2, and with neither on image 3.
    assert survival_features.describe(old, new, zero_shot) == {"changed": 3, "sided": 0}
    agreeing = survival_features.describe(new, new, zero_shot)
    assert agreeing == {"changed": 3, "sided": 3}


def test_rivals_predict_no_gain_for_equal_confidences() -> None:
    same = predictions(0, 1, 2, 3)
    assert survival_features.rival_estimates(same, same, same, 0.5) == {"doc": 0.0, "atc": 0.0}


def test_atc_counts_a_part_of_the_confidences_that_equal_its_threshold() -> None:
    old = predictions(0, 1, 2, 3, confidence=(1.0, 1.0, 1.0, 0.5))
    surer = predictions(0, 1, 2, 3, confidence=(1.0, 1.0, 1.0, 1.0))
    less_sure = predictions(0, 1, 2, 3, confidence=(1.0, 0.5, 0.5, 0.5))
    # Half of the images are right on the old model, so two of three confidences of 1 count.
    found = survival_features.rival_estimates(old, surer, less_sure, 0.5)
    assert found["atc"] == pytest.approx(2 / 3 * (1 - 1 / 4))
    # Without ties, images above the threshold count.
    spread = predictions(0, 1, 2, 3)
    found = survival_features.rival_estimates(spread, surer, spread, 0.5)
    assert found["atc"] == pytest.approx(1 - 1 / 2)


def test_settings_of_a_method_are_no_further_methods() -> None:
    rows = make_rows()
    rows["images"] = 100
    short = rows[rows["method"] == "coop"].assign(method="coop+context-4")
    rows = pd.concat([rows, short], ignore_index=True)
    rows["kind"] = [survival_features.kind_of(method) for method in rows["method"]]
    rows["ridge"] = survival_features.predict_gains(rows)
    assert "4 methods in 5 settings, 8 tasks" in survival_features.describe_rows(rows)
    assert "| prompts at the text input | 1 |" in survival_features.show_kinds(rows)


def test_a_prediction_does_not_depend_on_rows_of_its_target_or_task() -> None:
    rows = make_rows()
    before = survival_features.predict_gains(rows)
    judged = ((rows["target"] == "near") & (rows["task"] == "t0")).to_numpy()
    alike = ((rows["target"] == "near") | (rows["task"] == "t0")).to_numpy()
    changed = rows.copy()
    changed.loc[alike, "gained"] = -changed.loc[alike, "gained"]
    after = survival_features.predict_gains(changed)
    assert after[judged].tolist() == before[judged].tolist()
    assert after[~alike].tolist() != before[~alike].tolist()


def test_a_true_predictor_separates_losses_and_a_random_one_does_not() -> None:
    rows = make_rows()
    rows["ridge"] = survival_features.predict_gains(rows)
    for unit, units in (("target", len(TARGETS)), ("task", len(TASKS))):
        ridge = survival_features.judge(rows, survival_features.RIDGE, unit)
        assert ridge is not None
        assert ridge.value > 0.95
        assert ridge.units == units
        chance = survival_features.judge(rows, "ATC (arXiv:2201.04234)", unit)
        assert chance is not None
        assert chance.low < 0.5 < chance.high


def test_a_target_with_losses_alone_has_no_auroc() -> None:
    rows = make_rows()
    rows["ridge"] = survival_features.predict_gains(rows)
    rows.loc[rows["target"] == "far", "gained"] = -0.1
    assert survival_features.judge(rows, survival_features.RIDGE, "target") is None


def test_the_committed_rows_have_every_feature_of_every_module() -> None:
    rows = survival_features.read_rows()
    assert not rows.duplicated(["method", "task", "target", "seed"]).any()
    assert rows.notna().all(axis=None)
    assert (rows["gained"].abs() <= rows["changed"] + 1e-9).all()
    assert (rows["sided"].abs() <= rows["changed"] + 1e-9).all()
    assert rows["ridge"].abs().to_numpy() == pytest.approx(rows["ridge"].abs().clip(upper=1))
