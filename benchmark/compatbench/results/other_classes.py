"""Known and other classes, old and new model: what a suite with a protocol measures.

A module was trained on *own* classes (the base half; or all of the task that it was trained on),
and is tested on *other* ones (the new half; or those of other tasks), on source and target.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd

from compatbench.data.cards.schemas import Protocol
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.errors import CompatbenchError
from compatbench.harmonic_mean import harmonic_mean
from compatbench.results.estimate import estimate
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import NOT_TRANSFERABLE, mean_of_complete, pair_rows

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
_WITH_INTERVAL = ("four", "forgotten")
_DESCRIBED = [
    "method",
    "transfer",
    "ranked_with",
    "title",
    "paper",
    "sees_tests",
    "state",
    "own_reason",
    "other_reason",
    "reason",
]


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
    results: SuiteResults, expected: Expected, upgrade: Upgrade, shots: int
) -> pd.DataFrame:
    """Return a row for each method and transfer: complete ones by ``four``, then others by H.

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
    cannot be attached. ``transfer`` is that of the rows, ``ranked_with`` that of the ranking.
    """
    cells = _pair_classes(results, expected, upgrade, shots)
    means = _average(cells)
    four = means["four"].to_dict()
    reasons = _find_reasons(cells)
    rows = []
    modules = cells.drop_duplicates("module")[["module", "method", "transfer", "ranked_with"]]
    for module, method, transfer, ranked_with in modules.itertuples(index=False):
        info = results.methods[method].info
        own = reasons.get((module, "own"), "")
        other = reasons.get((module, "other"), "")
        state = _find_state(own, other, four[module])
        rows.append(
            {
                "module": module,
                "method": method,
                "transfer": transfer,
                "ranked_with": ranked_with,
                "title": info.title,
                "paper": info.paper,
                "sees_tests": info.sees_tests,
                "state": state,
                "own_reason": own,
                "other_reason": other,
                "reason": own or other,
            }
        )
    frame = pd.DataFrame(rows, columns=["module", *_DESCRIBED]).set_index("module").join(means)
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
    cells = own[["module", "method", "transfer", "ranked_with", "seed"]].assign(
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


def _average(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the means of each module over seeds, then over pairs, some with their intervals."""
    measured = [*_COLUMNS, "h_own", "h_other", *_WITH_INTERVAL]
    by_pair = mean_of_complete(cells, ["module", "pair"], measured)
    means = mean_of_complete(by_pair, ["module"], measured)
    for model in MODELS:
        means[f"h_{model}"] = harmonic_mean(means[f"own_{model}"], means[f"other_{model}"])
    for name in _WITH_INTERVAL:
        bounds = {}
        for module, of_module in by_pair[name].unstack("pair").iterrows():
            interval = estimate(of_module.to_numpy())
            if interval is not None and interval.bounded:
                bounds[module] = (interval.low, interval.high)
        columns = [f"{name}_low", f"{name}_high"]
        table = pd.DataFrame.from_dict(bounds, "index", columns=columns, dtype="float64")
        means = means.join(table)
    return means


def _find_reasons(cells: pd.DataFrame) -> dict[tuple[int, str], str]:
    """Return why modules cannot be attached, by module and classes; only of those that cannot."""
    reasons: dict[tuple[int, str], str] = {}
    for classes in CLASSES:
        for model in MODELS:
            refused = cells[cells[f"{classes}_{model}_reason"] != ""]
            pairs = zip(refused["module"], refused[f"{classes}_{model}_reason"], strict=True)
            for module, reason in pairs:
                reasons.setdefault((module, classes), reason)
    return reasons


def _find_state(own: str, other: str, four: float) -> str:
    if own or other:
        alone = not own and other.startswith(NOT_APPLICABLE)
        return "not applicable" if alone else NOT_TRANSFERABLE
    return "incomplete" if math.isnan(four) else "complete"
