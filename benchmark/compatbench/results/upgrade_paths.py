"""One module along an upgrade path: on its source, and on every later model."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from compatbench.results.expected import Expected
from compatbench.results.ranking import rank_methods, rank_transfer
from compatbench.results.suite_results import SuiteResults


def follow_path(
    results: SuiteResults, expected: Expected, path: Sequence[str], shots: int
) -> pd.DataFrame:
    """Return accuracy and gain of the copied modules of a path's source on each of its models.

    There is a row for each method and model. Methods are in the order of H on the last model, and
    models in the order of the path.

    * ``method``, ``title``, ``paper``, ``depth`` and ``sees_tests``: see ``rank_methods``.
    * ``step`` is 0 on the source; ``backbone`` is the model.
    * ``accuracy`` is in percent, ``gain`` over this model's own zero-shot in points; both are means
      over datasets and seeds, and NaN if anything of the step is missing.
    * ``accuracy_change`` and ``gain_change`` are the differences from the model before.
      ``accuracy_per_step`` and ``gain_per_step`` are their means over all steps, in every row of a
      method.
    """
    source, *targets = path
    rankings = []
    for target in targets:
        ranking = rank_methods(results, expected, ((source, target),), shots)
        rankings.append(rank_transfer(ranking).set_index("method"))
    order = rankings[-1].index
    shown = ["title", "paper", "depth", "sees_tests"]
    parts = []
    for step, backbone in enumerate(path):
        ranking = rankings[max(step - 1, 0)].loc[order]
        part = ranking[shown].assign(step=step, backbone=backbone)
        part["accuracy"] = ranking["target"] if step else ranking["source"]
        part["gain"] = ranking["gain"] if step else ranking["source_gain"]
        parts.append(part.reset_index())
    frame = pd.concat(parts)
    places = {method: place for place, method in enumerate(order)}
    frame["place"] = frame["method"].map(places)
    frame = frame.sort_values(["place", "step"]).drop(columns="place")
    return _add_changes(frame.reset_index(drop=True))


def _add_changes(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with the changes of each step and their means."""
    for name in ("accuracy", "gain"):
        changes = frame.groupby("method", sort=False)[name].diff()
        frame[f"{name}_change"] = changes
        steps = changes.groupby(frame["method"], sort=False)
        # The source has no step before it; if the change of another step is missing, so is the
        # mean.
        complete = steps.transform("count") == steps.transform("size") - 1
        frame[f"{name}_per_step"] = steps.transform("mean").where(complete)
    return frame
