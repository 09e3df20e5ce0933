"""The rows of an upgrade: source and target of the same module, side by side."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.measures import list_measures
from compatbench.results.suite_results import SuiteResults

NOT_TRANSFERABLE = "not transferable"


@lru_cache(maxsize=256)
def pair_rows(
    results: SuiteResults,
    expected: Expected,
    upgrade: Upgrade,
    shots: int,
    sets: tuple[tuple[str, str], ...] = (),
) -> pd.DataFrame:
    """Return a row for each module and test set that a suite asks for, measured or not.

    The columns are ``module``, a number for each method and transfer; ``transfer``,
    ``ranked_with``, ``method``, ``upgrade``, ``task``, ``test_set`` and ``seed``; every column of
    the results' frame but ``PLACE`` twice, as ``source_NAME`` and ``target_NAME``; and the
    measures of an upgrade under their names, in percent or points. Where a row is missing, its
    numbers are NaN and its texts are empty. Rows that the suite does not ask for are left out. A
    method that ``compatbench check`` refused has no H. The frame is cached: never change it in
    place.

    Args:
        sets: pairs of a task and a test set; by default every task of the suite with its own.
    """
    sets = sets or tuple((task, task) for task in expected.tasks)
    source, target = upgrade
    rows = _expected_rows(results, expected, sets)
    sides = [
        _find_side(results, expected, source, source, shots, sets).add_prefix("source_"),
        _find_side(results, expected, source, target, shots, sets).add_prefix("target_"),
    ]
    paired = pd.concat([rows.assign(upgrade=" → ".join(upgrade)), *sides], axis="columns")
    measures = {}
    for name, measure in list_measures("upgrade").items():
        measures[name] = np.asarray(measure.compute(paired), dtype="float64")
    refused = [info.name for info in results.infos if info.refused]
    measures["h"] = np.where(paired["method"].isin(refused), np.nan, measures["h"])
    # Some measures are columns of one side already, under the same name: ``source_gain``.
    paired = paired.drop(columns=[name for name in measures if name in paired])
    return pd.concat([paired, pd.DataFrame(measures, index=paired.index)], axis="columns")


@lru_cache(maxsize=256)
def _find_side(
    results: SuiteResults,
    expected: Expected,
    source: str,
    backbone: str,
    shots: int,
    sets: tuple[tuple[str, str], ...],
) -> pd.DataFrame:
    """Return the results of a source's modules on one backbone, in the order of expected rows."""
    places = _expected_rows(results, expected, sets).assign(
        shots=shots, source=source, backbone=backbone
    )
    fixed = [info.name for info in results.infos if not info.learns]
    places.loc[places["method"].isin(fixed), ["shots", "seed"]] = 0
    found = results.find_rows(places).reset_index(drop=True)
    found = found.fillna({"status": "", "reason": "", "key": "", "data": ""})
    return found.astype(dict.fromkeys(found.select_dtypes("Int64"), "float64"))


@lru_cache(maxsize=64)
def _expected_rows(
    results: SuiteResults, expected: Expected, sets: tuple[tuple[str, str], ...]
) -> pd.DataFrame:
    """Return a row for each module, seed and test set, in this order.

    A method without any row stands here with a copied module, so that pages say what it lacks.
    """
    measured = results.frame[["method", "transfer", "ranked_with"]].drop_duplicates()
    modules = list(measured.itertuples(index=False, name=None))
    with_rows = set(measured["method"])
    for method in results.methods:
        if method not in with_rows:
            modules.append((method, COPIED, COPIED))
    rows = []
    for module, (method, transfer, ranked_with) in enumerate(modules):
        seeds = expected.seeds_of(results.methods[method].info)
        for seed, (task, test_set) in product(seeds, sets):
            rows.append((module, transfer, ranked_with, method, task, test_set, seed))
    columns = ["module", "transfer", "ranked_with", "method", "task", "test_set", "seed"]
    return pd.DataFrame(rows, columns=columns)


def mean_of_complete(rows: pd.DataFrame, by: list[str], columns: list[str]) -> pd.DataFrame:
    """Return the mean of every group; NaN where a number of the group is missing."""
    groups = rows.groupby(by, sort=False)[columns]
    if rows[columns].notna().to_numpy().all():
        return groups.mean()
    complete = groups.count().eq(groups.size(), axis="index")
    return groups.mean().where(complete)


def task_means(rows: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return a measure by module (rows) and test set (columns), the mean over seeds and upgrades.

    A test set counts once, however many upgrades it was measured on: all come from one set of
    modules. A module that lacks any number is left out.
    """
    return tabulate_tasks(rows, [measure])[measure].dropna()


def tabulate_tasks(rows: pd.DataFrame, measures: list[str]) -> dict[str, pd.DataFrame]:
    """Return a table of each measure by module (rows) and test set (columns), means over seeds.

    Unlike ``task_means``, every module has a row: a number is NaN if any that it needs is missing.
    """
    means = mean_of_complete(rows, ["module", "test_set"], measures)
    order = list(dict.fromkeys(rows["test_set"]))
    return {measure: means[measure].unstack("test_set")[order] for measure in measures}
