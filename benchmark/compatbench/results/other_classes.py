"""Known and other classes, old and new model: what a suite with a protocol measures.

A module was trained on *own* classes (the base half; or all of the task that it was trained on),
and is tested on *other* ones (the new half; or those of other tasks), on source and target.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.data.cards.schemas import Protocol
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.errors import CompatbenchError
from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.estimate import Interval, estimate, harmonic_mean_of_means
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import NOT_TRANSFERABLE, pair_rows

Classes = Literal["own", "other"]
CLASSES: tuple[Classes, ...] = ("own", "other")
MODELS = ("source", "target")
# The end of a column -> the measure of an upgrade that it is.
_MEASURES = {
    "source": "source",
    "target": "target",
    "source_gain": "source_gain",
    "target_gain": "gain",
    "negative_flips": "negative_flips",
}
_COLUMNS = [f"{classes}_{name}" for classes in CLASSES for name in _MEASURES]
_MEANS = [*_COLUMNS, "h_own", "h_other", "h_source", "h_target", "four", "forgotten"]
_WITH_INTERVAL = ("four", "forgotten")


def require_other_classes(suite: str, protocol: Protocol) -> None:
    """Raise CompatbenchError for a suite without a protocol."""
    if protocol == "few-shot":
        raise CompatbenchError(
            f"suite '{suite}' tests no other classes than those trained on; take one with a "
            "'protocol', such as mini-base-to-new"
        )


def list_pairs(expected: Expected) -> list[tuple[str, str]]:
    """Return the pairs of a task that modules are trained on and a test set of other classes."""
    return [(task, name) for task in expected.tasks for name in expected.variants[task]]


def measure_other_classes(
    results: SuiteResults,
    expected: Expected,
    upgrade: Upgrade,
    shots: int,
    transfer: str = COPIED,
) -> pd.DataFrame:
    """Return a row for each method of a transfer: complete ones by ``four``, then others by H.

    ``own_source`` is the accuracy on own classes of the source, ``own_source_gain`` its gain over
    the source's zero-shot among these classes, ``own_negative_flips`` a share of the images, and so
    on. ``h_own`` is H of source and target. ``h_source`` is the H of the field: the harmonic mean
    of own and other classes' mean accuracies over datasets and seeds. ``four`` is the harmonic mean
    of all four accuracies, per dataset and seed, then averaged. ``forgotten`` is how much more of
    its gain a module loses on other classes than on its own. Accuracies are in percent, gains and
    ``forgotten`` in points; ``_low`` and ``_high`` bound 95 % intervals over pairs of a task and a
    test set. NaN where anything is missing.

    ``state`` is ``complete``, ``incomplete``, ``not transferable``, or ``not applicable`` if other
    classes mean nothing to the method and it has numbers on its own. ``reason`` says why modules
    cannot be attached.
    """
    cells = _pair_classes(results, expected, upgrade, shots)
    cells = cells[cells["ranked_with"] == transfer]
    rows = []
    for method, of_method in cells.groupby("method", sort=False):
        info = results.methods[str(method)].info
        row = {"method": method, "title": info.title, "paper": info.paper}
        row |= {"sees_tests": info.sees_tests, "state": "", **_average(of_method)}
        row |= {f"{classes}_reason": _find_reason(of_method, classes) for classes in CLASSES}
        row["state"] = _find_state(row)
        row["reason"] = row["own_reason"] or row["other_reason"]
        rows.append(row)
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    complete = frame["state"] == "complete"
    value = frame["four"].where(complete, frame["h_own"]).fillna(0.0)
    order = frame.assign(last=~complete, value=-value)
    order = order.sort_values(["last", "value", "method"], kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def _pair_classes(
    results: SuiteResults, expected: Expected, upgrade: Upgrade, shots: int
) -> pd.DataFrame:
    """Return a row for each module, seed and pair of test sets, with the numbers of both."""
    pairs = list_pairs(expected)
    parts = {}
    for number, classes in enumerate(CLASSES):
        sets = tuple((pair[0], pair[number]) for pair in pairs)
        parts[classes] = pair_rows(results, expected, upgrade, shots, sets)
    # Both have the same modules, seeds and pairs, in the same order.
    own, other = parts["own"], parts["other"]
    cells = own[["method", "ranked_with", "seed"]].assign(
        pair=own["task"] + " / " + other["test_set"]
    )
    for classes, part in parts.items():
        for name, measure in _MEASURES.items():
            cells[f"{classes}_{name}"] = part[measure]
        for model in MODELS:
            refused = part[f"{model}_status"] == NOT_TRANSFERABLE
            cells[f"{classes}_{model}_reason"] = part[f"{model}_reason"].where(refused, "")
        cells[f"h_{classes}"] = harmonic_mean(part["source"], part["target"])
    accuracies = cells[[f"{classes}_{model}" for classes in CLASSES for model in MODELS]].to_numpy()
    with np.errstate(divide="ignore"):
        means = 4 / (1 / accuracies).sum(axis=1)
    cells["four"] = np.where(accuracies.min(axis=1) == 0, 0.0, means)
    lost_other = cells["other_source_gain"] - cells["other_target_gain"]
    cells["forgotten"] = lost_other - (cells["own_source_gain"] - cells["own_target_gain"])
    return cells


def _average(cells: pd.DataFrame) -> dict[str, float]:
    """Return the means of a method over seeds, then over pairs, some with their intervals."""
    row = {}
    for name in _MEANS:
        interval = _estimate(cells, name)
        row[name] = np.nan if interval is None else interval.value
        if name in _WITH_INTERVAL:
            row[f"{name}_low"] = np.nan if interval is None else interval.low
            row[f"{name}_high"] = np.nan if interval is None else interval.high
    return row


def _estimate(cells: pd.DataFrame, name: str) -> Interval | None:
    model = name.removeprefix("h_")
    if name != model and model in MODELS:
        both = cells[["pair", f"own_{model}", f"other_{model}"]]
        return estimate(both, "pair", harmonic_mean_of_means)
    return estimate(cells[["pair", name]], "pair")


def _find_reason(cells: pd.DataFrame, classes: Classes) -> str:
    """Return why modules cannot be attached to these classes; empty if they can."""
    for model in MODELS:
        for reason in cells[f"{classes}_{model}_reason"]:
            if reason:
                return str(reason)
    return ""


def _find_state(row: dict[str, object]) -> str:
    own, other = str(row["own_reason"]), str(row["other_reason"])
    if own or other:
        alone = not own and other.startswith(NOT_APPLICABLE)
        return "not applicable" if alone else NOT_TRANSFERABLE
    return "incomplete" if pd.isna(row["four"]) else "complete"
