"""The price of an upgrade: how many labels per class it is worth to bring an old module along."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from compatbench.data.cards import COPIED
from compatbench.messages import count
from compatbench.results.costs import UNKNOWN, access_of, labels_of
from compatbench.results.estimate import (
    Array,
    Interval,
    draw_resamples,
    mean,
    percentile_interval,
)
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.ranking import rank_methods
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import pair_rows, task_means
from compatbench.tables.numbers import NOTHING, with_interval
from compatbench.tables.table import records

_RETRAINED = re.compile(r"retrained\+\d+")
PRICES = [
    "method",
    "option",
    "needs",
    "target",
    "target_low",
    "target_high",
    "gain",
    "gain_low",
    "gain_high",
    "seconds",
    "worth",
    "worth_low",
    "worth_high",
    "worth_same",
    "share",
]


def break_even(accuracy: ArrayLike, curve: ArrayLike, labels: Sequence[int]) -> Any:
    """Return the least number of labels per class at which retraining is as accurate, ``[...]``.

    ``curve`` is the accuracy of retraining with ``labels``, the first of which is 0: zero-shot;
    ``[..., labels]`` for accuracies ``[...]``. A number that does worse than a smaller one is not
    used, so the curve is its running maximum; between two numbers k it is linear in log2(1 + k). 0
    if zero-shot is as accurate, infinity if the curve stays below.
    """
    best = np.maximum.accumulate(np.asarray(curve, dtype=float), axis=-1)
    asked = np.asarray(accuracy, dtype=float)[..., None]
    reached = best >= asked
    after = reached.argmax(axis=-1)[..., None]
    before = np.maximum(after - 1, 0)
    places = np.log2(1 + np.asarray(labels, dtype=float))
    low = np.take_along_axis(best, before, axis=-1)
    high = np.take_along_axis(best, after, axis=-1)
    share = np.divide(asked - low, high - low, out=np.zeros(after.shape), where=high > low)
    worth = 2 ** (places[before] + share * (places[after] - places[before])) - 1
    worth = np.where(after == 0, 0.0, worth)[..., 0]
    return np.where(reached.any(axis=-1), worth, math.inf)


def find_worth(accuracy: ArrayLike, curves: Array, labels: Sequence[int]) -> float:
    """Return ``break_even`` of means over datasets.

    ``accuracy`` is ``[datasets]``, ``curves`` ``[methods, datasets, labels]``. With each number of
    labels that method counts whose mean is the highest.
    """
    every = np.arange(curves.shape[1])
    return float(break_even(mean(np.asarray(accuracy)), _best_curve(curves, every), labels))


def worth_intervals(
    accuracies: Sequence[Array], curves: Array, labels: Sequence[int]
) -> list[Interval]:
    """Return ``find_worth`` of several options, with bootstrap intervals over datasets.

    The datasets of an option and of the curves are drawn together. A bound is one of the resampled
    values, so that it may be infinite.
    """
    datasets = curves.shape[1]
    drawn = draw_resamples(datasets)
    best = _best_curve(curves, drawn)  # the same for every option
    intervals = []
    for accuracy in accuracies:
        resampled = break_even(mean(accuracy[drawn]), best, labels)
        value = find_worth(accuracy, curves, labels)
        intervals.append(percentile_interval(value, resampled, datasets, "inverted_cdf"))
    return intervals


def _best_curve(curves: Array, drawn: NDArray[np.intp]) -> Array:
    """Return the highest mean of a method over the drawn datasets, ``[..., labels]``."""
    return curves[:, drawn].mean(axis=-2).max(axis=0)


def count_labels(transfers: Sequence[str]) -> dict[int, str]:
    """Return the transfers that retrain, by their labels per class, in order (``labels_of``)."""
    numbers = {}
    for name in transfers:
        if _RETRAINED.fullmatch(name):
            numbers[labels_of(name)] = name
    return dict(sorted(numbers.items()))


@lru_cache(maxsize=64)
def retrained_modules(
    results: SuiteResults, expected: Expected, upgrade: Upgrade
) -> dict[int, pd.DataFrame]:
    """Return the accuracies of modules that were trained on the target, by labels per class.

    Only methods count that were trained with every number of labels, and that are not refused.

    Returns:
        Accuracies in percent, ``[methods, tasks]``, the methods in one order.
    """
    labels = count_labels(results.transfers)
    if not labels:
        return {}
    rows = pair_rows(results, expected, upgrade, max(expected.shots))
    refused = {info.name for info in results.infos if info.refused}
    rows = rows[rows["transfer"].isin(set(labels.values())) & ~rows["method"].isin(refused)]
    accuracies = task_means(rows, "target")
    modules = rows.drop_duplicates("module").set_index("module").loc[accuracies.index]
    by_labels = {}
    for number, transfer in labels.items():
        of_transfer = modules[modules["transfer"] == transfer]["method"]
        by_labels[number] = accuracies.loc[of_transfer.index].set_axis(of_transfer.to_numpy())
    everywhere = [
        name
        for name in next(iter(by_labels.values())).index
        if all(name in known.index for known in by_labels.values())
    ]
    return {number: known.loc[everywhere] for number, known in by_labels.items()}


def retrained_curves(
    retrained: dict[int, pd.DataFrame], zero_shot: ArrayLike
) -> tuple[list[str], Array]:
    """Return the retrained methods, and their accuracies ``[methods, datasets, labels]``.

    Args:
        retrained: of ``retrained_modules``.
        zero_shot: its accuracies, ``[datasets]``. They come first: they need no labels.
    """
    names = [str(name) for name in next(iter(retrained.values()), pd.DataFrame()).index]
    curves = []
    for name in names:
        of_method = [known.loc[name].to_numpy() for known in retrained.values()]
        curves.append(np.column_stack([np.asarray(zero_shot), *of_method]))
    return names, np.array(curves)


@lru_cache(maxsize=64)
def price_options(results: SuiteResults, expected: Expected, upgrade: Upgrade) -> pd.DataFrame:
    """Return what the options of all methods that learn need, take and are worth.

    A number is NaN where a cell that it needs is missing, failed or not transferable. Retrained
    modules are the measure, so they have no worth themselves.

    Returns:
        A row for each method and transfer, at the most shots: ``method``, ``option``, ``needs``;
        ``target``, the accuracy in percent, and ``gain`` over zero-shot, with bounds over
        datasets; ``seconds`` to bring a module along and classify a test set; ``worth`` in labels
        per class of the best retrained method, infinite if more than were measured;
        ``worth_same``, the same if its own method alone is retrained; ``share``, of the datasets
        on which it is worth any.
    """
    shots = max(expected.shots)
    ranking = rank_methods(results, expected, (upgrade,), shots)
    ranking = ranking[ranking["learns"]]
    rows = pair_rows(results, expected, upgrade, shots)
    accuracies = task_means(rows, "target")
    zero_shot = rows.groupby("test_set")["target_zero_shot"].first()
    zero_shot = zero_shot.reindex(list(expected.tasks)).to_numpy()
    retrained = retrained_modules(results, expected, upgrade)
    labels = [0, *retrained]
    names, curves = retrained_curves(retrained, zero_shot)
    measures = {*count_labels(results.transfers).values()}
    worths = {}
    if names:
        ported = ranking[~ranking["ranked_with"].isin(measures)]
        modules = [module for module in ported["module"] if module in accuracies.index]
        by_module = [accuracies.loc[module].to_numpy() for module in modules]
        worths = dict(zip(modules, worth_intervals(by_module, curves, labels), strict=True))
    prices = []
    columns = ["module", "method", "ranked_with", "target", "target_low", "target_high"]
    columns += ["gain", "gain_low", "gain_high", "evaluate_seconds"]
    for row in ranking[columns].to_dict("records"):
        price = {name: row[name] for name in columns[3:9]}
        price["method"] = row["method"]
        price["option"] = row["ranked_with"]
        price["needs"] = describe_access(row["ranked_with"])
        price["seconds"] = row["evaluate_seconds"]
        if row["module"] in worths:
            by_task = accuracies.loc[row["module"]].to_numpy()
            worth = worths[row["module"]]
            price["worth"] = worth.value
            if worth.low > -math.inf:
                price["worth_low"] = worth.low
                price["worth_high"] = worth.high
            if row["method"] in names:
                curve = curves[names.index(row["method"])].mean(axis=0)
                price["worth_same"] = float(break_even(by_task.mean(), curve, labels))
            price["share"] = float(np.mean(by_task > zero_shot))
        prices.append(price)
    return pd.DataFrame(prices, columns=PRICES)


def describe_access(transfer: str) -> str:
    """Return the needs in words: ``words, 8 labels per class``, or ``nothing``."""
    words = {
        "labels": f"{count(labels_of(transfer), 'label')} per class",
        "modules": "modules of other tasks",
        "old model": "the old model",
        "unlabelled": "unlabelled images",
        UNKNOWN: NOTHING,
    }
    return ", ".join(words.get(need, need) for need in access_of(transfer)) or "nothing"


def show_labels(labels: float, most: int) -> str:
    """Return labels per class: ``3.4``, or ``> 20`` where more than were measured are needed."""
    return f"> {most}" if math.isinf(labels) else f"{labels:.1f}"


def format_prices(prices: pd.DataFrame) -> list[str]:
    """Return the lines of a table of prices, 79 columns at most; none if no worth is known."""
    if prices["worth"].isna().all():
        return []
    show = partial(show_labels, most=max(count_labels(list(prices["option"])), default=0))
    lines = [("option", "needs", "time", "worth in labels per class")]
    for row in records(prices):
        time = NOTHING if row["seconds"] is None else f"{row['seconds']:,.1f} s"
        name = "untouched" if row["option"] == COPIED else row["option"]
        lines.append((name, row["needs"], time, with_interval(row, "worth", show)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        f"{name:{widths[0]}}  {needs:{widths[1]}}  {time:>{widths[2]}}  {worth}"
        for name, needs, time, worth in lines
    ]
