"""The finding on test-time adaptation: its data, its temperature, and its sentences."""

from __future__ import annotations

from pathlib import Path

import adapted_modules
import pandas as pd
import pytest
import torch

from compatbench.errors import CompatbenchError
from compatbench.tables.numbers import signed

ROOT = Path(__file__).parents[2]


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


def test_the_answer_counts_the_intervals_of_its_table() -> None:
    results = adapted_modules.read_results()
    answer = adapted_modules.describe_answer(results)
    table = adapted_modules.show_means(results)
    changes = []
    for line in table.splitlines():
        if line.startswith("| accuracy |"):
            changes += [float(cell.split()[0]) for cell in line.split("|")[4:6]]
    assert len(changes) == 6
    assert f"by {signed(min(changes))} to {signed(max(changes))} points: " in answer


def test_one_interval_is_counted_in_the_singular() -> None:
    rows = [[1.0, 2, 1, 2, 1, 2], [1, -1, 1, -1, 1, -1], [-1, -2, -1, -2, -1, -2]]
    changes = pd.DataFrame([*rows, rows[2]])
    counted = adapted_modules.count_signs(changes)
    assert counted == "1 of 4 intervals is above 0 and 2 are below"


def test_a_module_below_zero_shot_is_named_only_if_it_is() -> None:
    results = adapted_modules.read_results()
    is_maple = results.index.get_level_values("start") == "maple"
    for added, named in ((-50, True), (50, False)):
        moved = results.copy()
        moved.loc[is_maple, "accuracy"] = results.loc[is_maple, "accuracy"].to_numpy() + added
        assert ("(MaPLe)*" in adapted_modules.describe_lowest(moved)) == named


def test_overconfidence_is_counted_over_tasks_and_models() -> None:
    rows = pd.read_csv(adapted_modules.RESULTS)
    alone = rows[(rows["adaptation"] == "none") & (rows["start"] == "zeroshot")]
    over = (alone["confidence"] > 100 * alone["correct"] / alone["total"]).sum()
    assert f"zero-shot in {over} of {len(alone)} cases" in adapted_modules.describe_confidence()
