"""The price of an upgrade: how many labels per class bringing an old module along is worth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from compatbench.data.cards import COPIED
from compatbench.messages import count
from compatbench.results.estimate import Array, Interval, estimate, interval_columns, mean
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.method_results import SuiteResults, remembered
from compatbench.results.standing import (
    Standing,
    compute_standing,
    dataset_means,
    mean_of_all,
    measure_interval,
)
from compatbench.results.ways import UNKNOWN, access_of, needs_of
from compatbench.tables.numbers import NOTHING, with_interval

_RETRAINED = re.compile(r"retrained\+(\d+)")


@dataclass(frozen=True)
class Price:
    """What a transfer of one method's modules gives on one upgrade.

    A figure is None where a cell that it needs is missing, failed or not transferable.
    """

    transfer: str
    target: Interval | None  # accuracy there, mean over datasets, in percent
    gain: Interval | None  # over the target's zero-shot, in points
    seconds: float | None  # of bringing a module along and classifying a test set, in mean
    # In labels per class with which the best method is trained anew, whichever that is; infinite
    # if more than were measured.
    worth: Interval | None = None
    worth_same: float | None = None  # the same, if its own method alone is trained anew
    share: float | None = None  # of the datasets, on which it is worth any label, 0 to 1


def break_even(accuracy: ArrayLike, curve: ArrayLike, labels: Sequence[int]) -> Any:
    """The least number of labels per class at which retraining is as accurate, ``[...]``.

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
    low, high = (np.take_along_axis(best, place, axis=-1) for place in (before, after))
    share = np.divide(asked - low, high - low, out=np.zeros(after.shape), where=high > low)
    worth = 2 ** (places[before] + share * (places[after] - places[before])) - 1
    worth = np.where(after == 0, 0.0, worth)[..., 0]
    return np.where(reached.any(axis=-1), worth, math.inf)


def worth_interval(accuracy: ArrayLike, curves: ArrayLike, labels: Sequence[int]) -> Interval:
    """``break_even`` of means over datasets, with an interval from a bootstrap over datasets.

    All are drawn together: ``accuracy`` is ``[datasets]``, ``curves`` ``[methods, datasets,
    labels]``. With each number of labels that method counts whose mean is the highest. A bound is
    one of the resampled values, so that it may be infinite.
    """
    table = np.asarray(curves, dtype=float)

    def worth(way: Array, places: Array) -> Array:
        means = table[:, places.astype(int)].mean(axis=-2)
        return break_even(mean(way), means.max(axis=0), labels)

    figures = {"way": accuracy, "place": np.arange(table.shape[1])}
    interval = estimate(figures, statistic=worth, percentile="inverted_cdf")
    assert interval is not None, "an accuracy is missing"
    return interval


def count_labels(transfers: Sequence[str]) -> dict[int, str]:
    """The transfers that train anew, by their number of labels per class, in order."""
    numbers = {int(match[1]): name for name in transfers if (match := _RETRAINED.fullmatch(name))}
    return dict(sorted(numbers.items()))


@remembered
def train_anew(
    results: SuiteResults, expected: Expected, upgrade: Upgrade
) -> dict[int, dict[str, Standing]]:
    """By labels per class and method, the standings of modules that were trained on the target.

    Of the methods alone that were trained with every number of labels.
    """
    by_labels: dict[int, dict[str, Standing]] = {}
    for labels, name in count_labels(results.transfers).items():
        standings = (
            compute_standing(method, expected, upgrade, max(expected.shots))
            for method in results.of(name).values()
            if not method.info.refused
        )
        by_labels[labels] = {s.info.name: s for s in standings if dataset_means(s, "target")}
    everywhere = set.intersection(*map(set, by_labels.values())) if by_labels else set()
    return {
        labels: {name: standing for name, standing in known.items() if name in everywhere}
        for labels, known in by_labels.items()
    }


def anew_curves(
    results: SuiteResults, expected: Expected, upgrade: Upgrade, zero: Sequence[float]
) -> tuple[list[str], Array]:
    """The methods that were trained anew, and their accuracies ``[methods, datasets, labels]``.

    ``zero``, zero-shot's accuracy by dataset, stands first: it is what is had without labels.
    """
    trained = train_anew(results, expected, upgrade)
    names = [*next(iter(trained.values()), ())]
    curves = []
    for name in names:
        means = (dataset_means(known[name], "target") or {} for known in trained.values())
        curves.append(np.column_stack([zero, *([*each.values()] for each in means)]))
    return names, np.array(curves)


@remembered
def price_ways(
    results: SuiteResults, expected: Expected, method: str, upgrade: Upgrade
) -> list[Price]:
    """Every way that was measured of a method's modules, at the most shots.

    What each is worth is measured by modules trained anew on the target; of training anew itself
    it is not said.
    """
    standings = {
        name: compute_standing(methods[method], expected, upgrade, max(expected.shots))
        for name in results.transfers
        if method in (methods := results.of(name))
    }
    accuracies = {name: dataset_means(each, "target") for name, each in standings.items()}
    gains = (dataset_means(each, "gain") for each in standings.values())
    both = zip(accuracies.values(), gains, strict=True)
    zero = next(([t[task] - g[task] for task in t] for t, g in both if t and g), None)
    anew, prices = count_labels(results.transfers), list[Price]()
    names, curves = anew_curves(results, expected, upgrade, zero) if zero else ([], np.empty(0))
    for name, standing in standings.items():
        target, gain = (measure_interval(standing, measure) for measure in ("target", "gain"))
        seconds = mean_of_all(standing.column("target", "evaluate_seconds").ravel().tolist())
        price, accuracy = Price(name, target, gain, seconds), accuracies[name]
        if names and accuracy is not None and name not in anew.values():
            by_task, labels, same = [*accuracy.values()], [0, *anew], None
            if method in names:
                curve = curves[names.index(method)].mean(axis=0)
                same = float(break_even(np.mean(by_task), curve, labels))
            share = float(np.mean(np.array(by_task) > zero))
            worth = worth_interval(by_task, curves, labels)
            price = replace(price, worth=worth, worth_same=same, share=share)
        prices.append(price)
    return prices


def describe_access(transfer: str) -> str:
    """``words, 4 labels per class``, or ``nothing``."""
    words = {
        "labels": f"{count(needs_of(transfer).shots, 'label')} per class",
        "old model": "the old model",
        "unlabelled": "unlabelled images",
        UNKNOWN: NOTHING,
    }
    return ", ".join(words.get(need, need) for need in access_of(transfer)) or "nothing"


def show_labels(labels: float, most: int) -> str:
    """Labels per class: ``3.4``, or ``> 16`` where more would be needed than there are."""
    return f"> {most}" if math.isinf(labels) else f"{labels:.1f}"


def describe_prices(prices: Sequence[Price]) -> Iterator[dict[str, Any]]:
    """What each way needs, takes and is worth, as rows of ``Advice.prices``."""
    for price in prices:
        yield {
            "way": price.transfer,
            "needs": describe_access(price.transfer),
            "seconds": price.seconds,
            **interval_columns("worth", price.worth),
            "worth_same": price.worth_same,
            "share": price.share,
        }


def format_prices(prices: Sequence[Price]) -> list[str]:
    """The same as lines of a table, of 79 columns at most; nothing if no worth is known."""
    if all(price.worth is None for price in prices):
        return []
    show = partial(show_labels, most=max(count_labels([price.transfer for price in prices])))
    rows = [("way", "needs", "time", "worth in labels per class")]
    for row in describe_prices(prices):
        time = NOTHING if row["seconds"] is None else f"{row['seconds']:,.1f} s"
        name = "untouched" if row["way"] == COPIED else row["way"]
        rows.append((name, row["needs"], time, with_interval(row, "worth", show)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{way:{widths[0]}}  {needs:{widths[1]}}  {time:>{widths[2]}}  {worth}"
        for way, needs, time, worth in rows
    ]
