"""Which results are too good, or too constant, to be believed before a maintainer has looked.

A flag is no proof: a careful look at the method's file and rows settles it. A maintainer who has
looked names the method under ``reviewed`` in the suite's card, and the flag goes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from compatbench.data.cards import COPIED
from compatbench.data.cards.shots import ALL_SHOTS
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.ranking import MEASURED, rank_methods
from compatbench.results.suite_results import SuiteResults

LEAD = 15.0  # points of gain above the best other method of the kind
PROBE = "linear_probe"
_SAME = 1e-9  # a spread below this, in points, is a rounding error


class Flag(NamedTuple):
    """Why a result of a method is implausible.

    Attributes:
        what: ``lead``, ``spread`` or ``probe``.
        amount: the lead in points, or the accuracy of the full-data probe in percent.
        over: the title of the method that it is ahead of; empty for zero-shot.
    """

    method: str
    title: str
    upgrade: Upgrade
    transfer: str
    what: Literal["lead", "spread", "probe"]
    amount: float
    over: str = ""


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
    * ``spread``: all seeds have the same mean accuracy on the source or on the target. Each seed
      draws other images, so this takes a copied row. With all images there is one draw.
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
            if shots != ALL_SHOTS and _never_varies(row):
                flags.append(Flag(*about, "spread", 0.0))
            if probe is not None and row["source"] > probe and row["transfer"] == COPIED:
                flags.append(Flag(*about, "probe", probe))
    return flags


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


def _never_varies(row: Mapping[Any, Any]) -> bool:
    """Return True if the seeds of a module do not differ; NaN is the spread of one seed."""
    spreads = (row["source_std"], row["target_std"])
    return row["state"] != "null" and any(spread < _SAME for spread in spreads)


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
