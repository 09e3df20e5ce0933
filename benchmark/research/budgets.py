"""Choose for how many steps the suite ``mini`` trains each method.

    python benchmark/research/budgets.py coop kgcoop    # or all; --out and --jobs as of 'run'

A method begins with the steps that eight seconds of one core allow. They are doubled as long as
that gains half a point or more of source accuracy on the development tasks, and twice at most.
Rate and training stay as ``compatbench maintain tune`` has chosen them. ``budgets.csv`` keeps the
counts. The program prints the chosen numbers: ``max_steps``, which some methods call ``steps``,
and the ``epochs`` of the recipe. Write them into ``tasks/suites/mini.yaml``; a test compares both.

A method that is measured again begins with the same steps, those of its rows with factor 1. Delete
its rows to begin with the steps in ``mini.yaml``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

import compatbench as cb
from compatbench.data.cards import SuiteCard, suite_cards, task_cards
from compatbench.engine.matrix import MethodChoice, build_matrix
from compatbench.engine.pace import count_images
from compatbench.engine.request import make_request
from compatbench.files.yaml_text import dump_yaml
from compatbench.messages import conjugate, count
from compatbench.method.registry import builtin_methods
from compatbench.method.trained import TrainedMethod
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, percent
from compatbench.tables.table import plain_table

SUITE = "mini"
COUNTS = Path(__file__).with_suffix(".csv")
SHOTS = 16
SEED = 1
FACTORS = (1, 2, 4)
FLAT = 0.5  # doubling the steps must gain as many points of accuracy
# Settings that are numbers of steps, of methods that ``TrainedMethod`` does not train.
STEP_FIELDS = ("max_steps", "steps")


def read_suite() -> SuiteCard:
    """Return the suite with its development tasks in place of the ranked ones."""
    card = suite_cards.read(SUITE)
    return card.model_copy(update={"tasks": card.development, "variants": ()})


def list_choices(card: SuiteCard, methods: Iterable[str]) -> list[MethodChoice]:
    """Return the methods that are trained step by step and ranked, without their named configs."""
    choices = []
    for choice in build_matrix(make_request(card, list(methods))).choices:
        ranked = choice.name not in card.unranked and choice.name not in card.configs
        if ranked and scale_budget(card, choice, 1):
            choices.append(choice)
    return choices


def scale_budget(card: SuiteCard, choice: MethodChoice, factor: int) -> dict[str, Any]:
    """Return the settings with which a method takes so many times its steps; none without steps.

    The number of epochs is among them if the recipe would end a fit of four times the steps.
    Once a method is measured, its rows with factor 1 say what is multiplied: the suite has the
    steps that were chosen, so multiplying these would increase them with every run.
    """
    largest = max(card.tasks, key=lambda name: len(task_cards.read(name).classes))
    method = choice.build(largest)
    config: Any = method.config
    measured = _read_first_budget(choice.name)
    if not isinstance(method, TrainedMethod):
        numbers: dict[str, int] = {}
        for field in STEP_FIELDS:
            if getattr(config, field, None) is not None:
                numbers[field] = getattr(config, field)
        # The smaller one ends a fit.
        ending = min(numbers, key=numbers.__getitem__, default="")
        if not ending:
            return {}
        return {ending: factor * measured.get("max_steps", numbers[ending])}
    if "epochs" in measured:
        recipe = config.recipe.model_copy(update={"epochs": measured["epochs"]})
        config = config.model_copy(update={"recipe": recipe})
    if "max_steps" in measured:
        config = config.model_copy(update={"max_steps": measured["max_steps"]})
    method = type(method)(config)
    images = count_images(choice, task_cards.read(largest), SHOTS)
    epochs, per_epoch = method.plan_steps(SHOTS, images)
    steps = epochs * per_epoch
    cap = config.max_steps
    unlimited = type(method)(config.model_copy(update={"max_steps": None}))
    whole_epochs, whole_per_epoch = unlimited.plan_steps(SHOTS, images)
    whole = whole_epochs * whole_per_epoch
    settings: dict[str, Any] = {}
    if cap < card.training.max_steps or FACTORS[-1] * whole > cap:
        settings["max_steps"] = factor * cap
    if whole < FACTORS[-1] * steps:
        needed = math.ceil(factor * steps / whole_per_epoch)
        settings["recipe"] = {"epochs": max(whole_epochs, needed)}
    return settings


def _read_first_budget(name: str) -> dict[str, int]:
    """Return the ``max_steps`` and ``epochs`` that a method was first measured with, if any."""
    counts = read_counts()
    rows = counts[(counts["method"] == name) & (counts["factor"] == FACTORS[0])]
    return {} if rows.empty else _read_budget(rows.iloc[0])


def _read_budget(row: pd.Series) -> dict[str, int]:
    """Return ``max_steps`` and ``epochs`` of a row of counts, where it has them."""
    numbers = row[["max_steps", "epochs"]].dropna()
    return {str(field): int(value) for field, value in numbers.items()}


def measure(methods: Iterable[str], out: Path, jobs: int | None) -> pd.DataFrame:
    """Return the counts of every budget that the rule asks for, as in ``budgets.csv``."""
    card = read_suite()
    choices = list_choices(card, methods)
    frames: list[pd.DataFrame] = []
    for factor in FACTORS:
        if factor == FACTORS[-1]:
            chosen = choose(pd.concat(frames))
            choices = [choice for choice in choices if chosen[choice.name] == factor / 2]
        if choices:
            frames.append(_measure_factor(card, choices, factor, out, jobs))
    return pd.concat(frames, ignore_index=True)


def _measure_factor(
    card: SuiteCard, choices: list[MethodChoice], factor: int, out: Path, jobs: int | None
) -> pd.DataFrame:
    """Fit methods on the development tasks with so many times their steps."""
    budgets = {choice.name: scale_budget(card, choice, factor) for choice in choices}
    configs = {}
    for name, settings in budgets.items():
        configs[f"{name}+steps-{factor}"] = {"method": name} | settings
    suite = {
        "name": "mini-steps",
        "title": f"Mini, {factor} times the steps",
        "extends": SUITE,
        "publish": False,
        "upgrades": [list(card.upgrades[0])],  # a suite needs a target; the source alone counts
        "tasks": list(card.tasks),
        "variants": [],
        "seeds": [SEED],
        "compare": list(configs),
        "methods": configs,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mini-steps.yaml")
        path.write_text(dump_yaml(suite, width=100), encoding="utf-8")
        compute = cb.Compute(jobs=jobs)
        rows = cb.run(str(path), list(configs), out=out, compute=compute).frame
    on_source = rows["backbone"] == rows["source"]
    records = []
    for row in rows[on_source & rows["method"].isin(configs)].to_dict("records"):
        name = str(row["method"]).partition("+")[0]
        settings = budgets[name]
        records.append(
            {
                "method": name,
                "factor": factor,
                "max_steps": settings.get("max_steps", settings.get("steps", "")),
                "epochs": settings.get("recipe", {}).get("epochs", ""),
                "task": row["task"],
                "correct": row["correct"],
                "total": row["total"],
            }
        )
    return pd.DataFrame(records)


def tabulate(counts: pd.DataFrame) -> pd.DataFrame:
    """Return the mean accuracy in percent by method (rows) and factor (columns).

    The mean is NaN where a method lacks a task that other counts have.
    """
    accuracy = counts.assign(accuracy=100 * counts["correct"] / counts["total"])
    by_task = accuracy.pivot(index=["method", "factor"], columns="task", values="accuracy")
    by_factor = by_task.mean(axis=1, skipna=False)
    return by_factor.unstack("factor")


def choose(counts: pd.DataFrame) -> dict[str, int]:
    """Return the factor of each method: it is doubled as long as that gains ``FLAT`` or more."""
    chosen = {}
    for name, accuracies in tabulate(counts).iterrows():
        factor = FACTORS[0]
        for larger in FACTORS[1:]:
            # A gain that was not measured is NaN, which is not enough either.
            if not accuracies.get(larger, math.nan) - accuracies[factor] >= FLAT:
                break
            factor = larger
        chosen[str(name)] = factor
    return chosen


def list_settings(counts: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Return ``max_steps`` and ``epochs`` of each method's chosen budget, where it has them."""
    settings: dict[str, dict[str, int]] = {}
    for name, factor in choose(counts).items():
        rows = counts[(counts["method"] == name) & (counts["factor"] == factor)]
        settings[name] = _read_budget(rows.iloc[0])
    return settings


def describe_budgets() -> str:
    """Return the sentences on the committed counts, and the table of the budgets that grew."""
    counts = read_counts()
    chosen = choose(counts)
    accuracies = tabulate(counts)
    titles = {name: builtin_methods().get(name).card.title for name in chosen}
    grown = [name for name, factor in chosen.items() if factor > 1]
    at_limit = [name for name in grown if chosen[name] == FACTORS[-1]]
    rows = []
    for name in sorted(grown, key=lambda name: (-chosen[name], titles[name].lower())):
        of_method: Any = accuracies.loc[name]
        row = [titles[name], f"{chosen[name]} ×"]
        for factor in FACTORS:
            value = of_method.get(factor, math.nan)
            row.append(NOTHING if math.isnan(value) else percent(value))
        rows.append(row)
    header = ["Method", "Steps", *(f"accuracy with {factor} ×" for factor in FACTORS)]
    limit = ", ".join(sorted(titles[name] for name in at_limit)) or "none"
    equal = len(chosen) - len(grown)
    return (
        f"Of {count(len(chosen), 'method')} trained step by step, {equal} "
        f"{conjugate(equal, 'keep')} the number of steps, and {len(grown)} "
        f"{conjugate(len(grown), 'get')} more. These reach the limit of {FACTORS[-1]} times the "
        f"steps, where their accuracy may still rise: {limit}.\n\n"
        f"{render_table(plain_table(header, rows))}"
    )


def read_counts() -> pd.DataFrame:
    """Return the committed counts."""
    return pd.read_csv(COUNTS)


def main() -> None:
    """Measure some methods, and write their counts in place of earlier ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    found = measure(options.methods, options.out, options.jobs)
    earlier = read_counts()
    found = pd.concat([earlier[~earlier["method"].isin(found["method"])], found])
    found = found.sort_values(["method", "factor", "task"])
    found.to_csv(COUNTS, index=False)
    print(tabulate(read_counts()).round(1).to_string(na_rep="–"))
    for name, numbers in list_settings(read_counts()).items():
        print(f"{name}: {numbers}")


if __name__ == "__main__":
    main()
