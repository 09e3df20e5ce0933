"""The ranking of methods on an upgrade or on several, as a frame.

H is the harmonic mean of the accuracies on source and target. It is taken per dataset and seed,
averaged over datasets, and then over seeds. A mean is never taken over missing cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.messages import one_line
from compatbench.results.choice import judge_effect
from compatbench.results.estimate import FEWEST_UNITS, Interval, estimate
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.measures import list_measures
from compatbench.results.suite_results import SuiteResults, transfer_order
from compatbench.results.ties import count_tied, first_places_left_out
from compatbench.results.upgrade_rows import (
    NOT_TRANSFERABLE,
    mean_of_complete,
    pair_rows,
    tabulate_tasks,
)

NULL = 1.0  # percent of zero-shot's answers: a module that changes fewer does nothing
# The states in the order of a ranking; only the first can have a rank.
STATES = (
    "complete",
    "at chance",
    "null",
    "not ranked",
    "not transferable",
    "incomplete",
    "refused",
)
MEASURED = ("complete", "at chance", "null")  # states with all numbers, ranked or not
_WITH_INTERVAL = ("h", "target", "gain")
_WITH_SPREAD = ("source", "target", "h")
_FLAGS = ("learns", "sees_tests", "tied")
_COUNTS = ("rank", "harmed", "parameters", "parameters_low", "module_bytes", "peak_memory")


def rank_methods(
    results: SuiteResults, expected: Expected, upgrades: Sequence[Upgrade], shots: int
) -> pd.DataFrame:
    """Rank the methods by H on one upgrade, or by their mean over datasets and several upgrades.

    The frame has a row for each method and transfer: first the copied modules, then those of each
    transfer, ranked among themselves; in each of these, methods that see the test images come
    last and are ranked among themselves, too. A method without a result in any cell of any of the
    upgrades has no mean. Accuracies, H, flips and ECE are in percent, gains in points, times in
    seconds; a number is NaN if any cell that it needs is missing. The frame is cached: never change
    it in place.

    * ``rank`` is missing without an H, and on fewer datasets than a verdict takes: the best of many
      on one small task is best by luck. The best shares its place with those that follow, up to the
      first that differs from it (see ``count_tied``); the same is done for those that are left.
      ``tied`` is True if others share it; ``place`` is the rank as pages show it (``2=``), or the
      state of a method with numbers that is not ranked.
    * ``shown_title`` is one short line, with the track.
    * ``module`` numbers the rows of ``pair_rows``; ``ranked_with`` is the transfer of the track.
    * ``method``, ``title``, ``paper``, ``depth``, ``learns`` and ``sees_tests`` are of its card;
      ``kind`` is ``floor``, ``shallow``, ``deep`` or ``transferred``.
    * ``transfer`` is that of the rows. ``track`` names what it is ranked among: a transfer,
      ``transductive``, or nothing for copied modules. ``track_transfer`` is its transfer alone.
    * The measures of an upgrade have their names. ``_std`` is over seeds (ddof=1); ``_low`` and
      ``_high`` bound the 95 % interval over datasets.
    * ``relative_nfr``: negative flips as a multiple of those of independent errors
      (arXiv:2011.09161). It is one ratio of means, because that of a single dataset with few
      errors says little.
    * ``effect`` is what the interval of the gain shows: ``gains``, ``loses`` or ``cannot tell``;
      empty without a gain.
    * ``datasets`` counts the test sets that means are over.
    * ``harmed`` counts the datasets with a mean gain below 0; ``worst_task`` has the least gain,
      ``worst_gain``.
    * ``parameters`` and ``module_bytes`` are those of the largest module, ``parameters_low`` those
      of the smallest.
    * ``measured`` of all ``cells`` have a result; ``not_attached`` could not be attached, for the
      ``reasons``.
    * ``state`` is one of ``STATES``; ``unranked`` is the reason that the suite gives,
      ``refused_by`` the rule of ``compatbench check``.
    """
    return _rank_methods(results, expected, tuple(upgrades), shots)


@lru_cache(maxsize=256)
def _rank_methods(
    results: SuiteResults, expected: Expected, upgrades: tuple[Upgrade, ...], shots: int
) -> pd.DataFrame:
    rows = pd.concat([pair_rows(results, expected, each, shots) for each in upgrades])
    by_dataset = tabulate_tasks(rows, list(_WITH_INTERVAL))
    gains = by_dataset["gain"]
    if len(upgrades) > 1:
        columns = rows["upgrade"] + ": " + rows["test_set"]
        gains = tabulate_tasks(rows.assign(test_set=columns), ["gain"])["gain"]
    parts: list[pd.DataFrame | pd.Series] = [
        _average(rows),
        _find_intervals(by_dataset),
        _count_flips(rows),
        _find_harm(gains),
        _describe_cost(rows),
        _count_cells(rows),
    ]
    frame = _describe_methods(rows, results, expected).join(parts)
    frame["effect"] = frame["effect"].fillna("")
    frame["datasets"] = rows["test_set"].nunique()
    frame["state"] = _find_states(frame, by_dataset["target"], expected)
    frame["fit_seconds"] = frame["fit_seconds"].where(frame["learns"])
    return _put_in_order(frame.reset_index(), by_dataset["h"])


def describe_first_place(
    results: SuiteResults, expected: Expected, upgrade: Upgrade, shots: int
) -> dict[str, Any] | None:
    """Return which copied modules are first on an upgrade, and how stable that is.

    Methods that see the test images are left out.

    Returns:
        ``title`` and ``h`` of the method with the highest mean; ``tied``, how many methods share
        its rank; ``has_floor``, True if zero-shot is one of them; ``tasks``, their number;
        ``same``, the number of tasks without which exactly the same methods share the rank;
        ``stays``, that without which the method itself does; and the ``fewest`` and ``most``
        methods that share it then. None if no method has a rank.
    """
    ranking = rank_transfer(rank_methods(results, expected, (upgrade,), shots))
    ranked = ranking[ranking["rank"].notna() & ~ranking["sees_tests"]]
    if ranked.empty:
        return None
    rows = pair_rows(results, expected, upgrade, shots)
    scores = tabulate_tasks(rows, ["h"])["h"].loc[ranked["module"]]
    best = ranked.iloc[0]
    tied = ranked[ranked["rank"] == best["rank"]]
    left_out = first_places_left_out(scores) if scores.shape[1] > 1 else []
    sizes = [len(names) for names in left_out]
    return {
        "title": best["title"],
        "h": best["h"],
        "tied": len(tied),
        "has_floor": bool((tied["kind"] == "floor").any()),
        "tasks": scores.shape[1],
        "same": sum(set(names) == set(tied["module"]) for names in left_out),
        "stays": sum(best["module"] in names for names in left_out),
        "fewest": min(sizes, default=len(tied)),
        "most": max(sizes, default=len(tied)),
    }


def rank_transfer(ranking: pd.DataFrame, transfer: str = COPIED) -> pd.DataFrame:
    """Return the part of a ranking that is of one transfer."""
    return ranking[ranking["ranked_with"] == transfer].reset_index(drop=True)


def _describe_methods(
    rows: pd.DataFrame, results: SuiteResults, expected: Expected
) -> pd.DataFrame:
    """Return what the cards say of each module."""
    columns = ["module", "transfer", "method", "ranked_with"]
    frame = rows.drop_duplicates("module")[columns].set_index("module")
    infos = [results.methods[name].info for name in frame["method"]]
    for name in ("title", "paper", "depth", "learns", "sees_tests"):
        frame[name] = [getattr(info, name) for info in infos]
    through = frame["ranked_with"].where(frame["ranked_with"] != COPIED, "")
    transductive = frame["sees_tests"].map({True: "transductive", False: ""})
    kind = frame["depth"].where(frame["depth"] != "none", "floor")
    frame["kind"] = kind.where(through == "", "transferred")
    frame["track"] = [
        f"{name} {note}".strip() for name, note in zip(through, transductive, strict=True)
    ]
    frame["track_transfer"] = through
    frame["refused_by"] = [info.refused for info in infos]
    frame["unranked"] = [expected.unranked.get(name, "") for name in frame["method"]]
    return frame


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    """Return means over datasets, then over seeds, and their spread over seeds."""
    columns = [*list_measures("upgrade"), "source_changed"]
    by_seed = mean_of_complete(rows, ["module", "seed"], columns)
    means = mean_of_complete(by_seed, ["module"], columns)
    spreads = by_seed.groupby("module", sort=False)[list(_WITH_SPREAD)].std(ddof=1)
    spreads = spreads.where(means[list(_WITH_SPREAD)].notna())
    return means.join(spreads.add_suffix("_std"))


def _find_intervals(by_dataset: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the bounds of 95 % intervals over datasets, and what that of the gain shows."""
    bounds: dict[int, dict[str, Any]] = {}
    for measure in _WITH_INTERVAL:
        means = by_dataset[measure].dropna()
        for module, values in zip(means.index, means.to_numpy(), strict=True):
            interval = clip_percent(measure, estimate(values))
            of_module = bounds.setdefault(module, {})
            if interval is not None and interval.bounded:
                of_module[f"{measure}_low"] = interval.low
                of_module[f"{measure}_high"] = interval.high
            if measure == "gain":
                of_module["effect"] = judge_effect(interval)
    names = [f"{measure}_{end}" for measure in _WITH_INTERVAL for end in ("low", "high")]
    frame = pd.DataFrame.from_dict(bounds, "index", columns=[*names, "effect"])
    return frame.astype(dict.fromkeys(names, "float64"))


def clip_percent(measure: str, interval: Interval | None) -> Interval | None:
    """Return the interval of a mean, within 0 and 100 if it is in percent."""
    if interval is None or not interval.bounded:
        return interval
    if list_measures("upgrade")[measure].unit != "percent":
        return interval
    return replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 100.0))


def _count_flips(rows: pd.DataFrame) -> pd.DataFrame:
    expected = rows["source"] * (100 - rows["target"]) / 100
    both = rows.assign(expected_flips=expected)
    means = mean_of_complete(both, ["module"], ["negative_flips", "expected_flips"])
    ratio = means["negative_flips"] / means["expected_flips"].where(means["expected_flips"] != 0)
    return pd.DataFrame({"relative_nfr": ratio})


def _find_harm(gains: pd.DataFrame) -> pd.DataFrame:
    """Return on how many datasets the old module is worse than none, and the worst of these.

    Args:
        gains: by module and dataset; a dataset counts once for each upgrade.
    """
    harm = {}
    table = gains.sort_index(axis="columns").dropna()
    for module, of_module in zip(table.index, table.to_numpy(), strict=True):
        worst = int(of_module.argmin())
        harm[module] = {
            "harmed": int((of_module < 0).sum()),
            "worst_task": table.columns[worst],
            "worst_gain": of_module[worst],
        }
    return pd.DataFrame.from_dict(harm, "index", columns=["harmed", "worst_task", "worst_gain"])


def _describe_cost(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the size of modules, and the time and memory of their cells."""
    names = {"source_fit_seconds": "fit_seconds", "target_evaluate_seconds": "evaluate_seconds"}
    cost = mean_of_complete(rows, ["module"], list(names)).rename(columns=names)
    fitted = rows[rows["source_status"] == "ok"].groupby("module", sort=False)
    cost["parameters"] = fitted["source_parameters"].max()
    cost["parameters_low"] = fitted["source_parameters"].min()
    cost["module_bytes"] = fitted["source_module_bytes"].max()
    # Peak memory is known for all cells, or not at all.
    memory = rows[["source_peak_memory", "target_peak_memory"]].max(axis="columns")
    measured = memory.groupby(rows["module"], sort=False)
    cost["peak_memory"] = measured.max().where(measured.count() == measured.size())
    return cost


def _count_cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Return how many cells there are, how many have a result, and why some are not attached."""
    statuses = rows[["source_status", "target_status"]]
    not_transferable = statuses == NOT_TRANSFERABLE
    cells = pd.DataFrame(
        {
            "cells": 1,
            "measured": ((statuses == "ok") | not_transferable).all(axis="columns"),
            "not_attached": not_transferable.any(axis="columns"),
        }
    )
    counts = cells.groupby(rows["module"], sort=False).sum()
    reasons: dict[int, set[str]] = {}
    for side in ("source", "target"):
        refused = rows[rows[f"{side}_status"] == NOT_TRANSFERABLE]
        for module, reason in zip(refused["module"], refused[f"{side}_reason"], strict=True):
            reasons.setdefault(module, set()).add(reason)
    counts["reasons"] = [tuple(sorted(reasons.get(module, ()))) for module in counts.index]
    return counts


def _find_states(frame: pd.DataFrame, targets: pd.DataFrame, expected: Expected) -> list[str]:
    """Return the state of each module.

    Args:
        targets: accuracies on the target by module and dataset.
    """
    states = []
    for module, row in zip(frame.index, frame.to_dict("records"), strict=True):
        if row["refused_by"]:
            state = "refused"
        elif row["unranked"]:
            state = "not ranked"
        elif row["not_attached"]:
            state = NOT_TRANSFERABLE
        elif math.isnan(row["h"]):
            state = "incomplete"
        elif row["learns"] and row["source_changed"] < NULL and row["changed"] < NULL:
            state = "null"
        elif row["learns"] and _is_at_chance(targets.loc[module], expected.classes):
            state = "at chance"
        else:
            state = "complete"
        states.append(state)
    return states


def _is_at_chance(targets: pd.Series, classes: Mapping[str, int]) -> bool:
    """Return True if a module is less than twice as accurate as guessing on the target.

    Its whole 95 % interval over datasets must lie below, and fewer datasets than a verdict takes
    decide nothing.
    """
    if len(targets) < FEWEST_UNITS or not set(targets.index) <= set(classes):
        return False
    chance = np.array([100 / classes[test_set] for test_set in targets.index])
    interval = estimate(targets.to_numpy() - 2 * chance)
    return interval is not None and interval.high < 0


def _put_in_order(frame: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Return the frame in the order of its rankings, with ``rank``, ``tied`` and ``place``.

    In each ranking, complete methods stand by H, best first; then those without a rank, by their
    state.

    Args:
        scores: H by module and dataset.
    """
    transfers = sorted(set(frame["ranked_with"]), key=transfer_order)
    keys = pd.DataFrame(
        {
            "transfer": frame["ranked_with"].map(_places(transfers)),
            "sees_tests": frame["sees_tests"],
            "state": frame["state"].map(_places(STATES)),
            "h": -frame["h"].where(frame["state"] == "complete"),
            "method": frame["method"],
        }
    )
    order = keys.sort_values(["transfer", "sees_tests", "state", "h", "method"]).index
    ranked = frame.loc[order].reset_index(drop=True)
    ranks: dict[int, int] = {}
    tied: dict[int, bool] = {}
    has_rank = (ranked["state"] == "complete") & (ranked["datasets"] >= FEWEST_UNITS)
    for _, track in ranked[has_rank].groupby(["ranked_with", "sees_tests"], sort=False):
        of_track = scores.loc[track["module"]]
        first = 0
        while first < len(track):
            size = count_tied(of_track.iloc[first:])
            for row in track.index[first : first + size]:
                ranks[row] = first + 1
                tied[row] = size > 1
            first += size
    ranked["rank"] = pd.array([ranks.get(row) for row in ranked.index], dtype="Int64")
    ranked["tied"] = [tied.get(row, False) for row in ranked.index]
    explained = ranked["state"].where(ranked["state"].isin(MEASURED[1:]), "")
    shown = ranked["rank"].astype("str") + ranked["tied"].map({True: "=", False: ""})
    ranked["place"] = shown.where(ranked["rank"].notna(), explained)
    titles = zip(ranked["title"], ranked["method"], ranked["track"], strict=True)
    ranked["shown_title"] = [_show_title(*names) for names in titles]
    # The columns of an empty frame have no types yet.
    types = dict.fromkeys(_COUNTS, "Int64") | dict.fromkeys(_FLAGS, "bool")
    return ranked.astype(types)


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}


def _show_title(title: str, method: str, track: str) -> str:
    """Return one short line: the title, with the track of a method that is ranked apart."""
    short = one_line(title, longest=40) or method
    return f"{short} ({track})" if track else short
