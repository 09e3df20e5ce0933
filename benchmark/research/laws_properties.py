"""Question 1 of ``docs/laws.md``: which property of an upgrade tells what copied modules lose?

Hypothesis, figure, decision rule and the analysis that answers were written before any row of its
targets was seen, but for those of the first three targets of suite ``mini-upgrades``. What
describes the targets beside the rule was added after: ``list_groups``, ``compare_spaces`` and
``correlate_gains``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from predict_page import Inputs, leave_out, split_rows

from compatbench.data.cards import COPIED
from compatbench.extras.advice.predict import describe_moves
from compatbench.method.registry import builtin_methods
from compatbench.results.estimate import RESAMPLES, SEED, Array, Interval
from compatbench.tables.figures.spec_parts import Shown
from compatbench.tables.table import records
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
NAME = r"^(?P<lineage>.+?)-[5-8](?P<length>-length-0\.5)?$"
RIDGE = 1.0  # of standardised properties, and of losses with their mean taken away
# One interval for each property and for all together: seven at 5 % in all.
TAIL = 100 * 0.05 / (len(PROPERTIES) + 1) / 2


def read_targets(
    losses: pd.DataFrame, zero_shot: pd.Series, properties: pd.DataFrame
) -> pd.DataFrame:
    """The targets of the question: lineage, length, mean loss and properties.

    Args:
        losses: of copied modules in points, a column for each target.
        zero_shot: mean gain of zero-shot over the source's by target, in points.
        properties: as ``upgrade_features.py`` writes them, a row for each target and task.
    """
    targets = pd.DataFrame({"target": losses.columns, "loss": losses.mean().to_numpy()})
    names = targets["target"].str.extract(NAME)
    targets["lineage"], targets["length"] = names["lineage"], names["length"].isna() / 2 + 0.5
    targets["zero_shot"] = targets["target"].map(zero_shot)
    means = properties.drop(columns="task").groupby("target").mean()
    return targets.dropna().join(means, on="target").reset_index(drop=True)


def explained(losses: Array, values: Array, lineages: NDArray[np.int64], ridge: float) -> float:
    """R² of losses, each told by a linear fit to the other lineages, ``values [targets, columns]``.

    1 less the sum of squared errors, in parts of what the mean loss of the other lineages leaves;
    0 or less is no better than that mean.
    """
    left = plain = 0.0
    for judged, rest in split_rows(lineages):
        centre, mean = values[rest].mean(0), losses[rest].mean()
        size = np.maximum(values[rest].std(0), 1e-9)
        known, asked = (values[rest] - centre) / size, (values[judged] - centre) / size
        gram = known.T @ known + ridge * np.eye(values.shape[1])
        slopes = np.linalg.solve(gram, known.T @ (losses[rest] - mean))
        left += float(((losses[judged] - mean - asked @ slopes) ** 2).sum())
        plain += float(((losses[judged] - mean) ** 2).sum())
    return 1 - left / plain


def draw_targets(targets: pd.DataFrame) -> Iterator[NDArray[np.int64]]:
    """Resamples of the targets, by the seeds of each lineage and length."""
    rng = np.random.default_rng(SEED)
    strata = [*targets.groupby(["lineage", "length"]).indices.values()]
    for _ in range(RESAMPLES):
        yield np.concatenate([rng.choice(each, len(each)) for each in strata])


def judge(targets: pd.DataFrame) -> dict[str, Interval]:
    """How well each property, and all together, tell losses, a lineage left out at a time.

    The part of the losses' variance that it explains, R², by its title. Intervals are percentiles
    over resamples of seeds, for these three lineages.
    """
    losses, lineages = targets["loss"].to_numpy(), pd.factorize(targets["lineage"])[0]
    # A property that is the same in all the others tells their mean.
    fits = {title: ([name], 1e-9) for name, title in PROPERTIES.items()}
    fits[TOGETHER] = [*PROPERTIES], RIDGE
    draws, judged = [*draw_targets(targets)], {}
    for title, (columns, ridge) in fits.items():
        values = targets[columns].to_numpy(float)
        drawn = [explained(losses[d], values[d], lineages[d], ridge) for d in draws]
        low, high = map(float, np.percentile(drawn, [TAIL, 100 - TAIL]))
        value = explained(losses, values, lineages, ridge)
        judged[title] = Interval(value, low, high, len(targets))
    return judged


def describe_gains(
    gains: pd.DataFrame, targets: pd.DataFrame, properties: pd.DataFrame
) -> pd.DataFrame:
    """The gains of all modules, and what ``predict`` knows of them without images; and properties.

    A row for each method, task and target: ``gain`` in shares; ``known`` features by their own
    names, and each property, at each place where a module may act, as ``<property> at <place>``.
    """
    gained = gains[[*targets["target"]]].rename_axis(columns="target").stack()
    known = pd.DataFrame({"gain": gained}).reset_index()
    known = known.merge(properties, on=["target", "task"])
    known = known.merge(targets[["target", "lineage", "zero_shot"]], on="target")
    rows = []
    for facts in records(known):
        card = builtin_methods().get(facts["method"]).card
        module = describe_module(
            card.places, COPIED, bool(card.zero_shot_at), 1 - facts["token_cosine"]
        )
        row = {name: facts[name] for name in ("target", "lineage", "task")}
        row |= {"gain": facts["gain"] / 100} | describe_moves(module, facts)
        row |= {
            f"{name} at {place}": facts[name] * (place in card.places)
            for name, place in product(PROPERTIES, PLACES)
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
    splits = [*split_rows(rows["lineage"], rows["task"])]
    errors = [
        (rows["gain"] - leave_out(rows, Inputs(features, None), splits)).abs()
        for features in (known, [*known, *added])
    ]
    before, after = (100 * each.groupby(rows["target"]).mean() for each in errors)
    less = (before - after)[targets["target"]].to_numpy()
    drawn = [less[draw].mean() for draw in draw_targets(targets)]
    low, high = map(float, np.percentile(drawn, [2.5, 97.5]))
    return Interval(float(less.mean()), low, high, len(less))


def answer(judged: Mapping[str, Interval]) -> str:
    """The answer to the question in a sentence."""
    shown = [f"{title} (R² {show_r2(share)})" for title, share in judged.items() if share.low > 0]
    if not shown:
        return "No property was shown to predict the loss of a lineage that was left out."
    return f"Of a lineage that was left out, the loss is predicted by: {'; '.join(shown)}."


def list_groups(targets: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The targets of each lineage and length, for people."""
    groups = targets.groupby(["length", "lineage"], sort=False)
    return [
        (LINEAGES[str(lineage)] + ("" if length == 1 else ", half the steps"), group)
        for (length, lineage), group in groups
    ]


def correlate_gains(targets: pd.DataFrame) -> list[float]:
    """Within each lineage, Spearman's correlation of losses with zero-shot's gain."""
    groups = targets.groupby("lineage")
    return [each["loss"].corr(each["zero_shot"], method="spearman") for _, each in groups]


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
