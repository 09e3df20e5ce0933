"""What is missing from a suite's results, and rows that contradict each other."""

from __future__ import annotations

from itertools import product
from typing import Any

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.results.expected import Expected
from compatbench.results.suite_results import SuiteResults, transfer_order


def find_gaps(results: SuiteResults, expected: Expected) -> pd.DataFrame:
    """Return every failed or missing measurement that the suite asks for, by method and reason.

    ``title`` names the transfer unless it is ``copied``. ``kind`` is ``failed`` or ``missing``: a
    module that cannot be attached is a result. ``backbone`` says ``retrained`` for a module that
    was fitted on it as a target.
    """
    columns = ["method", "title", "kind", "reason", "task", "test_set", "shots", "seed", "backbone"]
    places = _list_places(results, expected)
    draws = places.assign(shots=places["draw_shots"], seed=places["draw_seed"])
    found = results.find_rows(draws)
    status = found["status"].fillna("missing").to_numpy()
    reason = found["reason"].where(found["status"] == "failed", "").to_numpy()
    places = places.assign(kind=status, reason=reason, backbone=places["shown"])
    gaps = places[places["kind"].isin(["failed", "missing"])]
    gaps = gaps.sort_values(["module", "kind", "reason"], kind="stable")
    return gaps[columns].reset_index(drop=True)


def _list_places(results: SuiteResults, expected: Expected) -> pd.DataFrame:
    """Return every measurement that the suite asks for of the modules that have results."""
    sets = expected.test_sets(expected.measured_tasks)
    places: list[dict[str, Any]] = []
    for module, (method, transfer) in enumerate(_list_modules(results)):
        info = results.methods[method].info
        title = info.title if transfer == COPIED else f"{info.title} ({transfer})"
        models: dict[tuple[str, str], str] = {}
        for source, target in expected.upgrades:
            models[source, source] = source
            models[source, target] = target
        if expected.retrained and info.learns and transfer == COPIED:
            for _, target in expected.upgrades:
                models.setdefault((target, target), f"{target}, retrained")
        all_shots = expected.shots if info.learns else expected.shots[:1]
        for shots, (task, test_set), seed, (source, backbone) in product(
            all_shots, sets, expected.seeds_of(info), models
        ):
            places.append(
                {
                    "module": module,
                    "method": method,
                    "title": title,
                    "transfer": transfer,
                    "task": task,
                    "test_set": test_set,
                    "source": source,
                    "backbone": backbone,
                    "shown": models[source, backbone],
                    "shots": shots,
                    "seed": seed,
                    # A method that learns nothing has one result for all shots and seeds.
                    "draw_shots": shots if info.learns else 0,
                    "draw_seed": seed if info.learns else 0,
                }
            )
    return pd.DataFrame(places)


def _list_modules(results: SuiteResults) -> list[tuple[str, str]]:
    """Return each method with each of its transfers, copied first."""
    rows = results.frame[["method", "transfer"]].drop_duplicates()
    modules = set(rows.itertuples(index=False, name=None))
    modules |= {(method, COPIED) for method in results.methods if method not in set(rows["method"])}
    return sorted(modules, key=lambda module: (module[0], transfer_order(module[1])))


def find_disagreements(results: SuiteResults) -> list[tuple[str, str]]:
    """Return (backbone, test set) pairs whose zero-shot accuracy is not the same in all rows.

    It does not depend on the method. A difference means that rows were made with other weights,
    other images, or on a machine that rounds otherwise.
    """
    rows = results.frame[results.frame["status"] == "ok"]
    counts = rows[["backbone", "test_set", "zero_shot_correct", "total"]].drop_duplicates()
    pairs = counts[["backbone", "test_set"]]
    return sorted(set(pairs[pairs.duplicated()].itertuples(index=False, name=None)))
