"""The finding on test-time adaptation: its data, its temperature, and its sentences."""

from __future__ import annotations

from pathlib import Path

import adapted_modules
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[2]
RESULTS = adapted_modules.read_results()


@pytest.mark.parametrize("method", [adapted_modules.ZERO_SHOT, *adapted_modules.MODULES])
def test_modules_without_an_adaptation_have_their_rows_of_the_mini_suite(method: str) -> None:
    rows = pd.read_csv(ROOT / "results" / "mini" / f"{method}.csv")
    rows = rows[(rows["transfer"] == "copied") & (rows["task"] == rows["test_set"])]
    found = pd.read_csv(adapted_modules.RESULTS)
    found = found[(found["start"] == method) & (found["adaptation"] == adapted_modules.ALONE)]
    both = found.merge(rows, on=["task", "seed", "backbone"], suffixes=("", "_of_row"))
    assert len(both) == len(found) > 0
    assert (both["correct"] == both["correct_of_row"]).all()
    assert (both["ece"] - both["ece_of_row"]).abs().max() < 0.01


def test_the_temperature_restores_the_mean_confidence() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    level = adapted_modules.mean_confidence(logits)
    sharper = logits * 3 + 1
    assert adapted_modules.mean_confidence(sharper) > level + 0.1
    temperature = adapted_modules.find_temperature(sharper, level)
    assert temperature == pytest.approx(3, rel=1e-3)


def bounds_of(measure: str, starts: list[str]) -> pd.DataFrame:
    """Return value, low and high of the mean change, by (backbone, adaptation)."""
    changes = adapted_modules.list_changes(RESULTS[measure], starts)
    means = changes.groupby(level=[0, 2]).mean()
    rows = {}
    for place, by_task in means.iterrows():
        interval = adapted_modules.estimate(by_task.to_numpy())
        assert interval is not None
        rows[place] = (interval.value, interval.low, interval.high)
    return pd.DataFrame(rows, index=["value", "low", "high"]).T


def test_the_answer_is_within_its_intervals() -> None:
    modules = list(adapted_modules.MODULES)
    gains = bounds_of("accuracy", modules).loc[list(adapted_modules.TARGETS)]
    assert (gains["low"] > 0).all()
    assert (round(gains["value"].min(), 1), round(gains["value"].max(), 1)) == (0.3, 1.1)
    for module in modules:
        assert (bounds_of("ece", [module])["low"] > 0).all()
    level = bounds_of("ece_at_level", modules).round(1)
    assert (level["value"].min(), level["value"].max()) == (-1.0, 1.3)
    assert (level["low"].min(), level["high"].max()) == (-1.8, 2.2)
    page = " ".join((ROOT / "docs" / "findings.md").read_text(encoding="utf-8").split())
    assert "add between 0.3 and 1.1 points to the mean of six modules" in page
    assert "changes by −1.0 to +1.3 points, with intervals within −1.8 to +2.2" in page
