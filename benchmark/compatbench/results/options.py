"""The options of an owner in an upgrade, and what was measured of each.

An option is a method with a transfer, such as CoOp copied or ProKeR through words. Staying with the
old model and dropping the module for zero-shot are options, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import pandas as pd

from compatbench.messages import one_line
from compatbench.results.costs import COST, UNKNOWN, access_of, cost_of
from compatbench.results.differences import OLD
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.ranking import rank_methods
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import pair_rows, task_means


@lru_cache(maxsize=64)
def list_options(
    results: SuiteResults, expected: Expected, upgrade: Upgrade
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return every option that methods with a rank have at the most shots.

    Methods that learn nothing or see the test images are left out. The frames are cached: never
    change them in place.

    Returns:
        A row per option: ``method``, ``title``, ``paper``, ``transfer`` (of the rows), ``needs``
        (a frozen set) and the columns of ``COST``; and of the same options the accuracy on the
        target and the gain over its zero-shot, ``[options, tasks]``, in percent and points.
    """
    shots = max(expected.shots)
    ranking = rank_methods(results, expected, (upgrade,), shots)
    kept = (ranking["state"] == "complete") & ranking["learns"] & ~ranking["sees_tests"]
    known = [UNKNOWN not in access_of(str(transfer)) for transfer in ranking["ranked_with"]]
    ranking = ranking[kept & pd.Series(known, index=ranking.index, dtype=bool)]
    rows = pair_rows(results, expected, upgrade, shots)
    options = ranking[["module", "method", "title", "paper", "transfer"]].copy()
    needs = [frozenset(access_of(name)) for name in ranking["ranked_with"]]
    options = options.assign(needs=pd.Series(needs, index=options.index, dtype=object))
    costs = pd.DataFrame([cost_of(name) for name in ranking["ranked_with"]], columns=COST)
    options = pd.concat([options.reset_index(drop=True), costs], axis="columns")
    accuracy = task_means(rows, "target").loc[options["module"]]
    gain = task_means(rows, "gain").loc[options["module"]]
    options = options.set_index("module")
    return options, accuracy, gain


def option_name(method: str, transfer: str) -> str:
    """Return the name of an option, or of a method's modules on the old model."""
    return f"{method} {transfer}"


def describe_option(method: str, transfer: str, reason: str | None) -> dict[str, object]:
    """Return an option as ``decide`` takes it, a row of ``options_frame``.

    Args:
        method: its name.
        transfer: how its modules reach the target.
        reason: why they cannot be attached; None if they can.
    """
    about: dict[str, object] = {"method": method, "transfer": transfer}
    about["old"] = option_name(method, OLD)
    about["not_attached"] = reason is not None
    about["reason"] = one_line(reason or "")
    return about | dict(zip(COST, cost_of(transfer), strict=True))


def options_frame(described: Mapping[str, Mapping[str, object]]) -> pd.DataFrame:
    """Return the frame of options that ``decide`` takes, from its rows by name."""
    columns = ["method", "transfer", "old", "not_attached", "reason", *COST]
    return pd.DataFrame.from_dict(dict(described), "index", columns=columns)
