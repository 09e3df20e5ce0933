"""Question 1 of ``docs/laws.md``: which property of an upgrade tells what copied modules lose?

Hypothesis, figure, decision rule and the analysis that answers were written before any row of its
targets was seen, but for those of the first three targets of suite ``mini-upgrades``. What
describes the targets beside the rule was added after: ``list_groups``, ``compare_spaces`` and
``correlate_gains``; and ``fit_law``, which had nothing to fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from laws_kinds import Kind
from numpy.typing import NDArray
from predict_page import fit_ridge

from compatbench.data.cards import COPIED
from compatbench.extras.advice.predict import describe_moves
from compatbench.extras.studies.law import Law, Line
from compatbench.method.registry import builtin_methods
from compatbench.results.estimate import RESAMPLES, SEED, Interval
from compatbench.tables.figures.spec_parts import Shown
from compatbench.transfers._shared.survival import (  # pyright: ignore[reportMissingImports]
    PLACES,
    describe_module,
)

FILE = Path(__file__).parent / "results" / "upgrade_properties.csv"
# By column: the five that were asked for, and what moves the texts that copied modules are read by.
PROPERTIES = {
    "text_cosine": "cosine of old and new text features",
    "text_procrustes": "what the best rotation leaves of text features",
    "image_cka": "CKA of image features",
    "token_cosine": "cosine of old and new class tokens",
    "inherited": "share of inherited parameters",
    "zero_shot": "gain of zero-shot",
}
TOGETHER = "all six, ridge"
LINEAGES = {
    "mini-eva-clip": "text tower and joint space inherited",
    "mini-eva-clip-anew": "text tower inherited",
    "mini-eva-clip-apart": "nothing inherited",
}
# Short, for the figure.
SERIES = dict(zip(LINEAGES, ("both inherited", "text tower alone", "nothing"), strict=True))
PANELS = {
    "text_cosine": "text cosine",
    "text_procrustes": "texts, left by a rotation",
    "image_cka": "image CKA",
    "token_cosine": "token cosine",
    "inherited": "parameters inherited",
    "zero_shot": "gain of zero-shot, points",
}
# All of a lineage are trained at two lengths, by these seeds.
NAME = re.compile(r"(?P<lineage>.+?)-[5-8](?P<length>-length-0\.5)?$")
TARGETS = 24
RIDGE = 1.0  # of standardised properties, and of losses with their mean taken away
# One interval for each property and for all together: seven at 5 % in all.
TAIL = 100 * 0.05 / (len(PROPERTIES) + 1) / 2
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """How well a property tells the losses of a lineage from those of the others.

    ``share``: the part of the losses' variance that it explains, R², with its interval.
    """

    title: str
    share: Interval

    @property
    def predicts(self) -> bool:
        return self.share.low > 0


def read_targets(
    kinds: Sequence[Kind], zero_shot: pd.Series, properties: pd.DataFrame
) -> pd.DataFrame:
    """The targets of the question that are complete: lineage, length, loss and properties.

    Args:
        zero_shot: mean gain of zero-shot over the source's by target, in points.
        properties: as ``upgrade_features.py`` writes them, a row for each target and task.
    """
    means = properties.drop(columns="task").groupby("target").mean()
    losses = {
        name: kind.losses[..., place].mean()
        for kind in kinds
        for place, name in enumerate(kind.targets)
    }
    rows = [
        {"target": name, "loss": loss, "zero_shot": zero_shot[name]}
        | {"lineage": matched["lineage"], "length": 0.5 if matched["length"] else 1.0}
        | means.loc[name].drop("zero_shot", errors="ignore").to_dict()
        for name, loss in losses.items()
        if name in means.index and (matched := NAME.fullmatch(name))
    ]
    return pd.DataFrame(rows)


def explained(losses: Array, values: Array, lineages: NDArray[np.int64], ridge: float) -> float:
    """R² of losses, each told by a linear fit to the other lineages, ``values [targets, columns]``.

    1 less the sum of squared errors, in parts of what the mean loss of the other lineages leaves;
    0 or less is no better than that mean.
    """
    left = plain = 0.0
    for judged, rest in _split(lineages):
        centre, mean = values[rest].mean(0), losses[rest].mean()
        size = np.maximum(values[rest].std(0), 1e-9)
        known, asked = (values[rest] - centre) / size, (values[judged] - centre) / size
        gram = known.T @ known + ridge * np.eye(values.shape[1])
        slopes = np.linalg.solve(gram, known.T @ (losses[rest] - mean))
        left += float(((losses[judged] - mean - asked @ slopes) ** 2).sum())
        plain += float(((losses[judged] - mean) ** 2).sum())
    return 1 - left / plain


def _split(lineages: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    for lineage in np.unique(lineages):
        yield lineages == lineage, lineages != lineage


def draw_targets(targets: pd.DataFrame) -> Iterator[NDArray[np.int64]]:
    """Resamples of the targets, by the seeds of each lineage and length."""
    rng = np.random.default_rng(SEED)
    strata = [*targets.groupby(["lineage", "length"]).indices.values()]
    for _ in range(RESAMPLES):
        yield np.concatenate([rng.choice(each, len(each)) for each in strata])


def judge(targets: pd.DataFrame) -> dict[str, Judged]:
    """How well each property, and all together, tell losses, a lineage left out at a time.

    Nothing while targets are missing. Intervals are percentiles over resamples of seeds, for these
    three lineages.
    """
    if len(targets) < TARGETS:
        return {}
    losses = targets["loss"].to_numpy()
    lineages = np.unique(targets["lineage"], return_inverse=True)[1]
    draws = [*draw_targets(targets)]
    judged = {}
    for name in (*PROPERTIES, TOGETHER):
        columns, ridge = ([name], 0.0) if name in PROPERTIES else ([*PROPERTIES], RIDGE)
        values = targets[columns].to_numpy(float)
        ridge = ridge or 1e-9  # a property that is the same in all the others tells their mean
        drawn = [explained(losses[d], values[d], lineages[d], ridge) for d in draws]
        low, high = np.percentile(drawn, [TAIL, 100 - TAIL])
        value = explained(losses, values, lineages, ridge)
        share = Interval(value, float(low), float(high), len(targets))
        judged[name] = Judged(PROPERTIES.get(name, name), share)
    return judged


def describe_gains(
    kinds: Sequence[Kind], targets: pd.DataFrame, properties: pd.DataFrame
) -> pd.DataFrame:
    """The gains of all modules, and what ``predict`` knows of them without images; and properties.

    A row for each method, task and target: ``gain`` in shares; ``known`` features by their own
    names, and each property, at each place where a module may act, as ``<property> at <place>``.
    """
    figures = [name for name in properties if name not in ("target", "task")]
    of_task: dict[tuple[str, str], dict[str, float]] = {
        (row["target"], row["task"]): {str(name): row[name] for name in figures}
        for row in properties.to_dict("records")
    }
    of_target = {row["target"]: row for row in targets.to_dict("records")}
    rows = list[dict[str, Any]]()
    for kind in kinds:
        for place, target in enumerate(kind.targets):
            if target not in of_target:
                continue
            lineage, zero_shot = (of_target[target][name] for name in ("lineage", "zero_shot"))
            for (i, method), (j, task) in product(enumerate(kind.methods), enumerate(kind.tasks)):
                card, facts = builtin_methods().get(method).card, of_task[target, task]
                apart = 1 - facts["token_cosine"]
                module = describe_module(card.places, COPIED, bool(card.zero_shot_at), apart)
                row = {"target": target, "lineage": lineage, "task": task}
                row["gain"] = kind.gains[i, j, place] / 100
                row |= describe_moves(module, facts)
                known = facts | {"zero_shot": zero_shot}
                row |= {
                    f"{each} at {where}": known[each] * (where in card.places)
                    for each in PROPERTIES
                    for where in PLACES
                }
                rows.append(row)
    return pd.DataFrame(rows)


def measure_help(rows: pd.DataFrame, targets: pd.DataFrame) -> Interval:
    """By how many points the error of ``predict`` without images falls with the properties.

    Mean absolute errors of gains, of ridges that have seen neither the lineage nor the task; the
    interval is over resamples of seeds, as of ``judge``, at 95 %.
    """
    names = [*map(str, rows)]
    added = [name for name in names if " at " in name]
    known = [name for name in names if name not in ("target", "lineage", "task", "gain", *added)]
    errors = {}
    for features in (known, [*known, *added]):
        told = np.zeros(len(rows))
        for lineage, task in set(zip(rows["lineage"], rows["task"], strict=True)):
            judged = np.flatnonzero((rows["lineage"] == lineage) & (rows["task"] == task))
            rest = rows[(rows["lineage"] != lineage) & (rows["task"] != task)]
            told[judged] = fit_ridge(rest, features, None).estimate(rows.iloc[judged])
        errors[len(features)] = np.abs(told - rows["gain"])
    before, after = (100 * each.groupby(rows["target"]).mean() for each in errors.values())
    less = (before - after)[targets["target"]].to_numpy()
    drawn = [less[draw].mean() for draw in draw_targets(targets)]
    low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    return Interval(float(less.mean()), low, high, len(less))


def answer(targets: pd.DataFrame, judged: Mapping[str, Judged]) -> str:
    """The answer to the question in a sentence; or how far it is.

    ``judged``: by ``judge``; empty while targets are missing.
    """
    if not judged:
        return f"Not answered yet: {len(targets)} of {TARGETS} targets have been measured."
    shown = [
        f"{each.title} (R² {show_r2(each.share)})" for each in judged.values() if each.predicts
    ]
    if not shown:
        return "No property was shown to predict the loss of a lineage that was left out."
    return f"Of a lineage that was left out, the loss is predicted by: {'; '.join(shown)}."


def fit_law(targets: pd.DataFrame, judged: Mapping[str, Judged]) -> Law:
    """The lines of the properties that predict, fitted to all targets; none of too few targets."""
    losses = targets["loss"].to_numpy(float)
    lineages = np.unique(targets["lineage"], return_inverse=True)[1]
    lines = []
    for name, title in PROPERTIES.items():
        if name not in judged or not judged[name].predicts:
            continue
        values = targets[name].to_numpy(float)
        slope, intercept = np.polyfit(values, losses, 1)
        errors = np.zeros(len(losses))
        for left_out, rest in _split(lineages):
            errors[left_out] = losses[left_out] - np.polyval(
                np.polyfit(values[rest], losses[rest], 1), values[left_out]
            )
        figures = {
            "slope": slope,
            "intercept": intercept,
            "error": np.abs(errors).mean(),
            "low": values.min(),
            "high": values.max(),
        }
        rounded = {key: round(float(figure), 4) for key, figure in figures.items()}
        column = {"zero_shot": "zero_shot_gain"}.get(name, name)
        lines.append(Line(name=column, title=title, **rounded))
    return Law(targets=len(targets), wanted=TARGETS, lines=tuple(lines))


def list_groups(targets: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The targets of each lineage and length, for people."""
    return [
        (
            title + ("" if length == 1 else ", half the steps"),
            targets[(targets["lineage"] == name) & (targets["length"] == length)],
        )
        for length in (1.0, 0.5)
        for name, title in LINEAGES.items()
    ]


def correlate_gains(targets: pd.DataFrame) -> list[float]:
    """Within each lineage, Spearman's correlation of losses with zero-shot's gain."""
    groups = (targets[targets["lineage"] == name] for name in LINEAGES)
    return [float(each["loss"].rank().corr(each["zero_shot"].rank())) for each in groups]


def compare_spaces(targets: pd.DataFrame) -> dict[str, float]:
    """The largest loss of targets that inherit the joint space, and the least of the others."""
    inherits, losses = targets["lineage"] == "mini-eva-clip", targets["loss"]
    return {"inherited": losses[inherits].max(), "own": losses[~inherits].min()}


def show_r2(share: Interval) -> str:
    """R² with its interval; of large ones no decimals."""
    value, low, high = (
        f"{x:.2f}" if abs(x) < 10 else f"{x:,.0f}" for x in (share.value, share.low, share.high)
    )
    return f"{value} ({low} to {high})"


def show_losses(targets: pd.DataFrame) -> Shown:
    """The loss of each target against each property, by lineage."""
    rows = [
        {"panel": title, "series": SERIES[row["lineage"]], "x": round(float(row[name]), 4)}
        | {"y": round(float(row["loss"]), 2)}
        for name, title in PANELS.items()
        for row in targets.to_dict("records")
    ]
    return Shown(rows, {"series": [*SERIES.values()]})
