"""Flag results that are too good, or too equal, to be believed before a maintainer has looked.

A flag is no proof: a careful look at the method's file and rows settles it. A maintainer who has
looked names the method under ``reviewed`` in the suite's card, and the flag goes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from compatbench.data.cards import COPIED
from compatbench.data.cards.shots import ALL_SHOTS
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.measures import list_measures
from compatbench.results.ranking import MEASURED, rank_methods
from compatbench.results.suite_results import SuiteResults

LEAD = 15.0  # points of gain above the best other method of the kind
PROBE = "linear_probe"
# Everything that names a row of a method, but its seed.
_PLACE = ["task", "source", "shots", "backbone", "test_set"]


class Flag(NamedTuple):
    """Why a result of a method is implausible.

    Attributes:
        upgrade: None if it is about the rows of all upgrades.
        what: ``lead``, ``seeds`` or ``probe``.
        amount: the lead in points, or the accuracy of the full-data probe in percent.
        over: the title of the method that it is ahead of; empty for zero-shot.
        seeds: two seeds with equal rows.
    """

    method: str
    title: str
    upgrade: Upgrade | None
    transfer: str
    what: Literal["lead", "seeds", "probe"]
    amount: float = 0.0
    over: str = ""
    seeds: tuple[int, int] | None = None


def find_implausible(
    results: SuiteResults,
    expected: Expected,
    shots: int,
    reviewed: Collection[str] = (),
    configs: Mapping[str, str] = {},
) -> list[Flag]:
    """Return the flags of all methods that no maintainer has reviewed.

    * ``lead``: the gain is ``LEAD`` points or more above that of the best other method of its kind
      (shallow, deep, or brought by any transfer), and above zero-shot. A method that is the only
      one of its kind is compared with none.
    * ``seeds``: two seeds have the same counts in every row (``find_equal_seeds``).
    * ``probe``: the mean accuracy on the source is above that of a linear probe with all training
      images, if these results have one.

    Args:
        shots: the number at which methods are compared.
        reviewed: methods that a maintainer has looked at.
        configs: named config -> the method that it configures; they are not compared with it.
    """
    flags = []
    for upgrade in expected.upgrades:
        ranking = rank_methods(results, expected, (upgrade,), shots)
        # Methods that learn nothing have one row, and no draw.
        rows = ranking[ranking["learns"] & ranking["state"].isin([*MEASURED, "not ranked"])]
        probe = None if shots == ALL_SHOTS else _probe_accuracy(results, expected, upgrade[0])
        methods = rows.to_dict("records")
        for row in methods:
            name = row["method"]
            if name in reviewed:
                continue
            about = (name, row["title"], upgrade, row["transfer"])
            best = _best_other(row, methods, configs)
            if best is not None and row["gain"] - best[0] >= LEAD:
                flags.append(Flag(*about, "lead", row["gain"] - best[0], best[1]))
            if probe is not None and row["source"] > probe and row["transfer"] == COPIED:
                flags.append(Flag(*about, "probe", probe))
    for name, transfer, first, second in find_equal_seeds(results.frame):
        if name not in reviewed:
            title = results.methods[name].info.title
            flags.append(Flag(name, title, None, transfer, "seeds", seeds=(first, second)))
    return flags


def find_equal_seeds(rows: pd.DataFrame) -> list[tuple[str, str, int, int]]:
    """Return method, transfer and two seeds wherever all counts of both seeds are equal.

    Another seed draws other images, so equal counts in every row are copies, unless there are very
    few rows. Two kinds of rows are left out. With all training images there is one draw. And a
    module that is as accurate as zero-shot everywhere may be so with every seed.
    """
    counts = [
        name for name, measure in list_measures("answers").items() if measure.unit == "images"
    ]
    measured = rows[(rows["status"] == "ok") & (rows["shots"] != ALL_SHOTS)].sort_values(_PLACE)
    place = measured.groupby(_PLACE).ngroup()
    table = measured[counts].assign(place=place).to_numpy(float, na_value=math.nan)
    changes_something = (measured["correct"] != measured["zero_shot_correct"]).to_numpy()
    of_modules: dict[tuple[str, str], dict[int, NDArray[np.float64]]] = {}
    of_seeds: Any = measured.groupby(["method", "transfer", "seed"]).indices
    for (method, transfer, seed), places in of_seeds.items():
        if changes_something[places].any():
            of_modules.setdefault((method, transfer), {})[int(seed)] = table[places]
    found = []
    for (method, transfer), by_seed in of_modules.items():
        for first, second in combinations(by_seed, 2):
            if np.array_equal(by_seed[first], by_seed[second], equal_nan=True):
                found.append((method, transfer, first, second))
    return found


def _best_other(
    row: Mapping[Any, Any], methods: Sequence[Mapping[Any, Any]], configs: Mapping[str, str]
) -> tuple[float, str] | None:
    """Return the highest gain of other methods of a kind, or 0, that of zero-shot; and the title.

    None if there is no other method.
    """
    base = configs.get(row["method"], row["method"])
    best: tuple[float, str] | None = None
    for other in methods:
        is_other = configs.get(other["method"], other["method"]) != base
        if other["kind"] != row["kind"] or not is_other or math.isnan(other["gain"]):
            continue
        if best is None or other["gain"] > best[0]:
            best = (float(other["gain"]), str(other["title"]))
    if best is not None and best[0] <= 0:
        return 0.0, ""
    return best


def _probe_accuracy(results: SuiteResults, expected: Expected, source: str) -> float | None:
    """Return the mean accuracy of a probe with all training images, in percent, if all have it."""
    frame = results.frame
    found = frame[
        (frame["method"] == PROBE)
        & (frame["transfer"] == COPIED)
        & (frame["shots"] == ALL_SHOTS)
        & (frame["source"] == source)
        & (frame["backbone"] == source)
        & (frame["test_set"] == frame["task"])
        & (frame["status"] == "ok")
    ]
    accuracies = 100 * found["correct"] / found["total"]
    by_task = accuracies.groupby(found["task"]).mean().reindex(list(expected.tasks))
    if by_task.isna().any():
        return None
    return float(by_task.mean())
