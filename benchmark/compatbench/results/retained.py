"""The share of its gain that a module keeps, compared with one that is retrained on the target."""

from __future__ import annotations

import numpy as np
import pandas as pd

from compatbench.results.choice import judge_effect
from compatbench.results.estimate import Array, Interval, estimate, ratio_of_means
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.ranking import rank_methods, rank_transfer
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import pair_rows, task_means


def measure_retained(
    results: SuiteResults, expected: Expected, upgrade: Upgrade, shots: int
) -> pd.DataFrame:
    """Return gains of old and retrained modules, of the methods that learn, best H first.

    * ``method``, ``title``, ``paper``, ``depth`` and ``sees_tests``: see ``rank_methods``.
    * ``old`` and ``retrained`` are the mean gains over the target's zero-shot, in points: of the
      copied module, and of a module that was fitted on the target.
    * ``kept`` is the share of the retrained module's gain that the old one has, in percent, with
      its 95 % interval over datasets. It is a ratio of two means over datasets and seeds, not a
      mean of ratios: the ratio of a dataset where retraining gains next to nothing is next to
      anything, and one such dataset would decide the mean. There is no share unless retraining
      gains significantly.
    """
    rows = pair_rows(results, expected, upgrade, shots)
    # A module that was fitted on the target is its own source.
    on_target = pair_rows(results, expected, (upgrade[1], upgrade[1]), shots)
    old = task_means(rows, "gain")
    retrained = task_means(on_target, "gain")
    ranking = rank_transfer(rank_methods(results, expected, (upgrade,), shots))
    ranking = ranking[ranking["learns"]]
    frame = ranking[["method", "title", "paper", "depth", "sees_tests"]].copy()
    frame["old"] = ranking["gain"]
    means = retrained.mean(axis="columns")
    frame["retrained"] = means.reindex(ranking["module"]).to_numpy()
    shares = {}
    for place, module in ranking["module"].items():
        if module in old.index and module in retrained.index:
            kept = _share(old.loc[module].to_numpy(), retrained.loc[module].to_numpy())
            if kept is not None:
                shares[place] = (kept.value, kept.low, kept.high)
    columns = ["kept", "kept_low", "kept_high"]
    shown = pd.DataFrame.from_dict(shares, "index", columns=columns, dtype="float64")
    # An interval of one dataset has no bounds.
    shown = shown.replace([-np.inf, np.inf], np.nan)
    return frame.join(shown).reset_index(drop=True)


def _share(old: Array, retrained: Array) -> Interval | None:
    """Return the share of one gain that another is, both ``[datasets]``, in percent."""
    if judge_effect(estimate(retrained)) != "gains":
        return None
    return estimate({"old": 100 * old, "retrained": retrained}, statistic=ratio_of_means)
