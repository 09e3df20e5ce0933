"""Predict from two features, without any label, which copied modules lose on a new model.

    compatbench run --seeds 1,2,3                        # suite mini, in FOLDER
    python benchmark/research/survival_features.py FOLDER    # writes survival_features.csv

The features, the regression and its two constants are those of an earlier study on other rows
(CHANGELOG.md: ``predict``). None was chosen on the rows of this table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from method_kinds import KINDS, kind_of
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

import compatbench as cb
from compatbench.data.cards import COPIED
from compatbench.engine.store import read_predictions
from compatbench.messages import count
from compatbench.method.predictions import Predictions
from compatbench.results.estimate import Array, Interval, estimate
from compatbench.tables.markdown import render_table
from compatbench.tables.numbers import NOTHING, rounded, with_bounds
from compatbench.tables.table import TableCell, number, plain_table

RESULTS = Path(__file__).with_suffix(".csv")
SUITE = "mini"
ZERO_SHOT = "zeroshot"
PENALTY = 30.0  # of the ridge regression, for features of standard deviation 1
FLOOR = 0.02  # added to the share of changed predictions for the scale of a residual
LARGE = 0.02  # the gains and losses that are counted as large: two points
RIDGE = "ridge regression of both features"
AGREEMENT = "second feature alone: agreement with the old module (arXiv:2106.13799)"
UNITS = ("target", "task")


def measure(out: Path) -> pd.DataFrame:
    """Return a row for each copied module on each target: its gain, and what predicts it.

    ``gained``, ``changed`` and ``sided`` are numbers of images. ``changed`` counts those whose
    prediction the module changes on the target. ``sided`` counts those for which the module on the
    old model agrees with the changed prediction, minus those for which it agrees with the target's
    zero-shot. Labels of the target are in ``gained`` alone.

    Args:
        out: the folder whose ``results/`` has the rows and whose ``runs/`` has the predictions.
    """
    results = cb.results(SUITE, out)
    frame = results.frame
    frame = frame[
        (frame["transfer"] == COPIED)
        & (frame["status"] == "ok")
        & frame["task"].isin(results.expected.tasks)
        & (frame["task"] == frame["test_set"])
    ]

    @cache
    def read(key: str) -> dict[tuple[str, str], Predictions]:
        paths = list((out / "runs" / "predictions" / key[:2]).glob(f"{key}*.safetensors"))
        if not paths:
            return {}
        predictions = read_predictions(paths[0], paths[0].stem)
        return {(backbone, name): found for (backbone, name, _), found in predictions.items()}

    zero_shot = {}
    for row in frame[frame["method"] == ZERO_SHOT].to_dict("records"):
        zero_shot.update(read(row["key"]))
    on_source = frame[frame["backbone"] == frame["source"]].set_index(["key", "task"])
    accuracies: dict[Any, float] = on_source["accuracy"].to_dict()
    rows = []
    lost = 0
    for row in frame[frame["backbone"] != frame["source"]].to_dict("records"):
        place = (row["backbone"], row["task"])
        predictions = read(row["key"])
        if kind_of(row["method"]) is None:
            continue
        if place not in predictions:
            lost += 1
            continue
        old = predictions[row["source"], row["task"]]
        accuracy = accuracies[row["key"], row["task"]] / 100
        facts = {"method": row["method"], "task": row["task"], "target": row["backbone"]}
        facts |= {"seed": row["seed"], "images": row["total"]}
        facts["gained"] = row["correct"] - row["zero_shot_correct"]
        facts |= describe(old, predictions[place], zero_shot[place])
        rows.append(facts | rival_estimates(old, predictions[place], zero_shot[place], accuracy))
    if lost:
        print(f"{lost} rows have no predictions in {out / 'runs'} and are left out")
    return pd.DataFrame(rows).sort_values(["method", "task", "target", "seed"])


def describe(old: Predictions, new: Predictions, new_zero_shot: Predictions) -> dict[str, int]:
    """Return the two features, as numbers of images.

    Args:
        old: of the module on the old model.
        new: of the module on the target.
        new_zero_shot: of the target's zero-shot.
    """
    agrees = int((old.classes == new.classes).sum())
    agrees_without = int((old.classes == new_zero_shot.classes).sum())
    changed = int((new.classes != new_zero_shot.classes).sum())
    return {"changed": changed, "sided": agrees - agrees_without}


def rival_estimates(
    old: Predictions, new: Predictions, new_zero_shot: Predictions, accuracy: float
) -> dict[str, float]:
    """Return the gain as published estimators of accuracy predict it, as a share of the images.

    Args:
        old, new, new_zero_shot: as for ``describe``.
        accuracy: of the module on the old model. ATC's threshold is the confidence that as large a
            share of the images exceeds there. Confidences are rounded, and many are 1. Of those
            equal to the threshold, only a part counts, so that the share is the accuracy.
    """
    threshold = float(old.confidence.double().quantile(1 - accuracy))
    above_before, equal_before = _compare_with(old, threshold)
    counted = (accuracy - above_before) / equal_before if equal_before else 0.0
    above, equal = _compare_with(new, threshold)
    above_without, equal_without = _compare_with(new_zero_shot, threshold)
    confident = above + counted * equal
    confident_without = above_without + counted * equal_without
    difference = new.confidence.double().mean() - new_zero_shot.confidence.double().mean()
    return {"doc": float(difference), "atc": confident - confident_without}


def _compare_with(predictions: Predictions, threshold: float) -> tuple[float, float]:
    """Return the shares of the images whose confidence is above a threshold, and equal to it."""
    confidence = predictions.confidence.double()
    above = float((confidence > threshold).double().mean())
    equal = float((confidence == threshold).double().mean())
    return above, equal


def read_rows(path: Path = RESULTS) -> pd.DataFrame:
    """Return the committed rows, with gains and features as shares of the images."""
    rows = pd.read_csv(path)
    for name in ("gained", "changed", "sided"):
        rows[name] = rows[name] / rows["images"]
    rows["kind"] = [kind_of(method) for method in rows["method"]]
    rows["ridge"] = predict_gains(rows)
    return rows


def predict_gains(rows: pd.DataFrame) -> Array:
    """Return the gain of each row as predicted from rows of other targets and other tasks."""
    features = rows[["changed", "sided"]].to_numpy(float)
    predicted = np.zeros(len(rows))
    for places in rows.groupby(list(UNITS)).indices.values():
        target, task = rows.iloc[places[0]][list(UNITS)]
        others = ((rows["target"] != target) & (rows["task"] != task)).to_numpy()
        known = features[others]
        sizes = known.std(axis=0)
        ridge = Ridge(alpha=PENALTY, fit_intercept=False)
        weights = 1 / (known[:, 0] + FLOOR)
        ridge.fit(known / sizes, rows["gained"].to_numpy()[others], sample_weight=weights)
        predicted[places] = ridge.predict(features[places] / sizes)
    # Accuracy changes only on images whose prediction the module changes.
    return np.clip(predicted, -features[:, 0], features[:, 0])


# What should be high if a module gains, by description.
PREDICTORS: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
    RIDGE: lambda rows: rows["ridge"],
    AGREEMENT: lambda rows: rows["sided"],
    "first feature alone: share of changed predictions": lambda rows: -rows["changed"],
    "difference of confidences (arXiv:2107.03315)": lambda rows: rows["doc"],
    "ATC (arXiv:2201.04234)": lambda rows: rows["atc"],
}


def judge(
    rows: pd.DataFrame, predictor: str, unit: str, minus: str | None = None
) -> Interval | None:
    """Return the mean AUROC within a unit, with its interval over the units.

    The AUROC is that of separating modules that lose from all others. None if a unit has only
    losses, or none.

    Args:
        unit: the column that names the units, ``target`` or ``task``.
        minus: a predictor whose AUROC is subtracted.
    """
    values = []
    for _, of_unit in rows.groupby(unit):
        loses = of_unit["gained"] < 0
        if loses.nunique() == 1:
            return None
        value = rate(of_unit, predictor)
        if minus is not None:
            value -= rate(of_unit, minus)
        values.append(value)
    return estimate(values)


def rate(rows: pd.DataFrame, predictor: str) -> float:
    """Return the AUROC with which a predictor separates modules that lose from all others."""
    return float(roc_auc_score(rows["gained"] < 0, -PREDICTORS[predictor](rows)))


def show(interval: Interval | None) -> TableCell:
    """Return an AUROC with its interval as ``0.86 (0.80 to 0.91)``, never above 1."""
    return number(_show(interval))


def _show(interval: Interval | None) -> str:
    if interval is None:
        return NOTHING
    shown = f"{interval.value:.2f}"
    if interval.bounded:
        shown += f" ({max(interval.low, 0):.2f} to {min(interval.high, 1):.2f})"
    return shown


def show_predictors(rows: pd.DataFrame) -> str:
    """Return the table of all predictors."""
    large = rows[rows["gained"].abs() >= LARGE]
    header = ["Predictor"]
    for end in ("", ", two points or more"):
        header += [f"AUROC within a target{end}", f"within a task{end}"]
    table: list[list[TableCell | str]] = []
    for predictor in PREDICTORS:
        row: list[TableCell | str] = [predictor]
        for part in (rows, large):
            row += [show(judge(part, predictor, unit)) for unit in UNITS]
        table.append(row)
    return render_table(plain_table(header, table))


def count_methods(rows: pd.DataFrame) -> int:
    """Return the number of methods; ``coop`` and its setting ``coop+context-4`` are one."""
    return len({method.partition("+")[0] for method in rows["method"]})


def show_kinds(rows: pd.DataFrame) -> str:
    """Return the table of the regression by kind of method.

    The gains of a method are those in all of its settings, such as ``coop+context-4``.
    """
    header = ["Kind of method", "Methods", "Losses, %"]
    header += ["AUROC within a target", "within a task"]
    table: list[list[TableCell | str]] = []
    for kind in KINDS:
        part = rows[rows["kind"] == kind]
        if part.empty:
            continue
        losses = 100 * (part["gained"] < 0).mean()
        row: list[TableCell | str] = [kind, str(count_methods(part)), f"{losses:.0f}"]
        row += [show(judge(part, RIDGE, unit)) for unit in UNITS]
        table.append(row)
    return render_table(plain_table(header, table))


def describe_rows(rows: pd.DataFrame) -> str:
    """Return the answer in numbers, and what they were computed from."""
    within = [_show(judge(rows, RIDGE, unit)) for unit in UNITS]
    large = rows[rows["gained"].abs() >= LARGE]
    within_large = [_show(judge(large, RIDGE, unit)) for unit in UNITS]
    methods = count(count_methods(rows), "method")
    settings = rows["method"].nunique()
    if settings > count_methods(rows):
        methods += f" in {count(settings, 'setting')}"
    counts = [
        f"{len(rows):,} gains of copied modules",
        methods,
        count(rows["task"].nunique(), "task"),
        count(rows["target"].nunique(), "target"),
        count(rows["seed"].nunique(), "seed"),
    ]
    losses = 100 * (rows["gained"] < 0).mean()
    together = f"{rate(rows, RIDGE):.2f}"
    large_together = f"{rate(large, RIDGE):.2f}"
    return (
        "The regression separates modules that lose from the others with an AUROC of "
        f"{within[0]} within a target, {within[1]} within a task, and {together} over all rows; 1 "
        "is perfect and 0.5 is chance. For gains and losses of two points or more these are "
        f"{within_large[0]}, {within_large[1]} and {large_together}. The data: "
        f"{', '.join(counts)}; {losses:.0f} % are losses. The first interval is over targets, the "
        "second over tasks."
    )


def describe_policy(rows: pd.DataFrame) -> str:
    """Return what it gains to use zero-shot wherever a loss is predicted."""
    chosen = rows["gained"].where(rows["ridge"] > 0, 0.0)
    policy = rows[list(UNITS)].assign(
        copying=100 * (chosen - rows["gained"]), zero_shot=100 * chosen
    )
    shown = {}
    for rival in ("copying", "zero_shot"):
        over = []
        for unit in UNITS:
            over.append(with_bounds(estimate(policy.groupby(unit)[rival].mean())))
        shown[rival] = " and ".join(over)
    return (
        "Using zero-shot wherever a loss is predicted, and the module elsewhere, gains "
        f"{shown['copying']} points over always copying, and {shown['zero_shot']} over always "
        "using zero-shot (intervals over targets, then over tasks)."
    )


def show_difference(value: float | None) -> str:
    """Return a difference of two AUROCs with two decimals and its sign; ``0.00`` has none."""
    found = rounded(value, 2)
    if found is None:
        return NOTHING
    return f"{found:+.2f}" if found else "0.00"


def describe_difference(rows: pd.DataFrame) -> str:
    """Return what the regression adds to the agreement with the old module alone."""
    shown = []
    for unit in UNITS:
        interval = judge(rows, RIDGE, unit, AGREEMENT)
        shown.append(with_bounds(interval, show_difference))
    return (
        f"The AUROC of the regression minus that of the second feature alone is {shown[0]} within "
        f"a target and {shown[1]} within a task."
    )


def make_sections() -> dict[str, str]:
    """Return the sections by name."""
    rows = read_rows()
    return {
        "survival-answer": describe_rows(rows),
        "survival": "\n\n".join(
            [
                show_kinds(rows),
                show_predictors(rows),
                describe_difference(rows),
                describe_policy(rows),
            ]
        ),
    }


def main() -> None:
    """Write the rows."""
    rows = measure(Path(sys.argv[1]))
    rows.to_csv(RESULTS, index=False, lineterminator="\n", float_format="%.4f")


if __name__ == "__main__":
    main()
