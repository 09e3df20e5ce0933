"""The finding on test-time adaptation: its data, its temperature, and its sentences."""

from __future__ import annotations

from pathlib import Path

import adapted_modules
import pandas as pd
import pytest
import torch

from compatbench.errors import CompatbenchError

ROOT = Path(__file__).parents[2]
RESULTS = adapted_modules.read_results()
PAGE = " ".join((ROOT / "docs" / "findings.md").read_text(encoding="utf-8").split())


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


def test_only_the_modules_of_16_shots_on_the_old_model_are_measured() -> None:
    rows = [
        ("kgcoop", "mini-faces", "mini-clip", 16, 1, "a"),
        ("kgcoop", "mini-faces", "mini-eva-clip", 16, 1, "b"),
        ("kgcoop", "mini-faces", "mini-clip", 4, 1, "c"),
        ("kgcoop", "mini-faces", "mini-clip", "all", 1, "d"),
        ("kgcoop", "mini-faces", "mini-clip", 16, 2, "e"),
        ("maple", "mini-faces", "mini-clip", 16, 1, "f"),
    ]
    columns = ["method", "task", "source", "shots", "seed", "file"]
    modules = pd.DataFrame(rows, columns=columns)
    assert list(adapted_modules.choose_modules(modules)["file"]) == ["a", "e", "f"]
    modules.loc[1, "source"] = "mini-clip"
    with pytest.raises(CompatbenchError, match="several modules of kgcoop for mini-faces and seed"):
        adapted_modules.choose_modules(modules)


def test_the_gains_of_modules_and_of_zero_shot_are_not_told_apart() -> None:
    changes = adapted_modules.list_changes(RESULTS["accuracy"], adapted_modules.STARTS)
    zero_shot = changes.xs(adapted_modules.ZERO_SHOT, level=1)
    modules = changes.drop(adapted_modules.ZERO_SHOT, level=1).groupby(level=[0, 2]).mean()
    for place, by_task in (modules - zero_shot).iterrows():
        interval = adapted_modules.estimate(by_task.to_numpy())
        assert interval is not None
        assert interval.low < 0 < interval.high, place
    assert "A difference from what they add to zero-shot is not shown." in PAGE


def test_maple_stays_below_zero_shot_where_the_embedding_space_is_kept() -> None:
    values = RESULTS["accuracy"].loc["mini-eva-clip"]
    for adaptation in (adapted_modules.ALONE, *adapted_modules.ADAPTATIONS):
        lead = values.loc[("maple", adaptation)] - values.loc[("zeroshot", adaptation)]
        interval = adapted_modules.estimate(lead.to_numpy())
        assert interval is not None
        assert interval.high < 0, adaptation
    assert "They do not rescue MaPLe: where the embedding space is kept, it is below" in PAGE


def test_nearly_all_answers_are_overconfident_before_any_adaptation() -> None:
    rows = pd.read_csv(adapted_modules.RESULTS)
    rows = rows[rows["adaptation"] == adapted_modules.ALONE]
    over = rows["confidence"] > 100 * rows["correct"] / rows["total"]
    zero_shot = over[rows["start"] == adapted_modules.ZERO_SHOT]
    modules = over[rows["start"] != adapted_modules.ZERO_SHOT]
    assert zero_shot.all()
    assert rows["task"].nunique() == 8
    assert "for zero-shot on all eight tasks with all three models" in PAGE
    assert f"for modules in {modules.sum()} of {len(modules)} cases" in PAGE


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
    assert "add between 0.3 and 1.1 points to the mean of six modules" in PAGE
    assert "changes by −1.0 to +1.3 points, with intervals within −1.8 to +2.2" in PAGE
