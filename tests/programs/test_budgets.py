"""The steps of each method in suite ``mini`` are those that the committed counts give."""

from __future__ import annotations

import budgets
import pandas as pd
import pytest

from compatbench.data.cards import suite_cards
from compatbench.engine.method_settings import resolve_settings
from compatbench.method.registry import builtin_methods


def count_right(accuracies: dict[int, float]) -> pd.DataFrame:
    """Return counts of one method on two tasks with these accuracies in percent, by factor."""
    rows = []
    for factor, accuracy in accuracies.items():
        for task in ("a", "b"):
            budget = {"max_steps": 100 * factor, "epochs": None}
            right = {"task": task, "correct": 10 * accuracy, "total": 1000}
            rows.append({"method": "coop", "factor": factor} | budget | right)
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("accuracies", "factor"),
    [
        ({1: 60.0, 2: 60.4}, 1),
        ({1: 60.0, 2: 60.5}, 2),
        ({1: 60.0, 2: 60.5, 4: 60.9}, 2),
        ({1: 60.0, 2: 60.5, 4: 61.0}, 4),
        # What came later does not count: the curve was flat before.
        ({1: 60.0, 2: 60.4, 4: 70.0}, 1),
    ],
)
def test_steps_are_doubled_as_long_as_that_gains_half_a_point(
    accuracies: dict[int, float], factor: int
) -> None:
    assert budgets.choose(count_right(accuracies)) == {"coop": factor}
    assert budgets.list_settings(count_right(accuracies)) == {"coop": {"max_steps": 100 * factor}}


def test_the_suite_has_the_steps_that_the_counts_give() -> None:
    counts = budgets.read_counts()
    suite = suite_cards.read("mini")
    registry = builtin_methods()
    chosen = budgets.choose(counts)
    assert len(chosen) > 40
    for name, numbers in budgets.list_settings(counts).items():
        config = resolve_settings(registry.get(name), suite, name).config
        steps = [config.get(field) for field in budgets.STEP_FIELDS]
        assert numbers.get("max_steps", steps[0]) in steps, name
        # Where the steps stayed the same, so did the epochs, which may depend on the shots.
        if chosen[name] > 1 and "epochs" in numbers:
            assert config["recipe"]["epochs"] == numbers["epochs"], name


def test_one_method_keeps_its_steps_in_the_singular(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = pd.concat(
        [
            count_right({1: 60, 2: 60}),
            count_right({1: 60, 2: 65, 4: 65}).assign(method="kgcoop"),
        ]
    )
    monkeypatch.setattr(budgets, "read_counts", lambda: counts)
    said = budgets.describe_budgets()
    assert said.startswith("Of 2 methods trained step by step, 1 keeps the number of steps, and 1 ")
    assert "gets more" in said


def test_a_budget_that_grew_was_measured_with_the_smaller_ones() -> None:
    measured = budgets.tabulate(budgets.read_counts())
    for name, factor in budgets.choose(budgets.read_counts()).items():
        smaller = [each for each in budgets.FACTORS if each <= factor]
        assert measured.loc[name, smaller].notna().all()


def test_a_method_that_is_measured_again_begins_with_the_same_steps() -> None:
    counts = budgets.read_counts()
    card = budgets.read_suite()
    methods = counts["method"].unique()
    choices = {choice.name: choice for choice in budgets.list_choices(card, methods)}
    for row in counts.drop_duplicates(["method", "factor"]).to_dict("records"):
        settings = budgets.scale_budget(card, choices[row["method"]], row["factor"])
        steps = settings.get("max_steps", settings.get("steps", float("nan")))
        epochs = settings.get("recipe", {}).get("epochs", float("nan"))
        measured = (row["max_steps"], row["epochs"])
        assert (steps, epochs) == pytest.approx(measured, nan_ok=True), row["method"]


def test_a_missing_task_gives_no_mean() -> None:
    counts = count_right({1: 60.0, 2: 62.0})
    incomplete = counts.drop(index=counts.index[-1])
    assert budgets.tabulate(incomplete).loc["coop"].isna().tolist() == [False, True]
    assert budgets.choose(incomplete) == {"coop": 1}
