"""The ranking as a frame: what every page shows, and what a notebook is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from compatbench.data.cards.suite import COPIED
from compatbench.engine.cell import Cell
from compatbench.results.costs import evaluate_seconds, module_bytes, peak_memory
from compatbench.results.gaps import find_gaps
from compatbench.results.intervals import measure_interval
from compatbench.results.measures import Expected, Measure, Standing, Upgrade, compute_standing
from compatbench.results.ranks import Ranked, rank_methods
from compatbench.results.store import SuiteResults

# Column -> measure; the mean is taken over datasets, then over seeds.
_MEANS: dict[str, Measure] = {
    "gain": "gain",
    "source_gain": "source_gain",
    "nfr": "negative_flips",
    "pfr": "positive_flips",
    "inconsistent": "inconsistent_errors",
    "source_ece": "source_ece",
    "target_ece": "target_ece",
}
_TEXT, _REAL, _COUNT = "object", "float64", "Int64"
# Every column of a ranking in its order, with its type.
_COLUMNS = {
    **dict.fromkeys(("rank", "method", "title", "paper", "depth"), _TEXT),
    "learns": "bool",
    **dict.fromkeys(("transfer", "state"), _TEXT),
    **dict.fromkeys(("source", "source_std", "target", "target_std", "h", "h_std"), _REAL),
    **dict.fromkeys(("h_low", "h_high", "h_of_averages", "gain", "source_gain"), _REAL),
    **dict.fromkeys(("nfr", "pfr", "relative_nfr", "inconsistent"), _REAL),
    **dict.fromkeys(("source_ece", "target_ece"), _REAL),
    "harmed": _COUNT,
    "worst_task": _TEXT,
    "worst_gain": _REAL,
    **dict.fromkeys(("parameters", "parameters_low", "module_bytes"), _COUNT),
    **dict.fromkeys(("fit_seconds", "evaluate_seconds"), _REAL),
    **dict.fromkeys(("peak_memory", "cells", "measured", "refused"), _COUNT),
    "reasons": _TEXT,
}


@dataclass(frozen=True)
class Results:
    """The results of a suite, as frames.

    Attributes:
        suite: what was measured.
        expected: what the suite asks for, so that what is missing is known.
        failures: of the run that returned them, each failed cell with its error.
    """

    suite: SuiteResults
    expected: Expected
    failures: tuple[tuple[Cell, str], ...] = ()

    @property
    def frame(self) -> pd.DataFrame:
        """One row per measurement: counts, and accuracy and gain in percent and points."""
        return self.suite.frame

    def ranked(
        self, upgrade: Upgrade, shots: int | None = None, transfer: str = COPIED
    ) -> list[Ranked]:
        """The methods of one transfer with their places; by default at the most shots."""
        shots = max(self.expected.shots) if shots is None else shots
        methods = self.suite.of(transfer).values()
        return rank_methods([compute_standing(m, self.expected, upgrade, shots) for m in methods])

    def ranking(
        self, source: str, target: str, shots: int | None = None, transfer: str = COPIED
    ) -> pd.DataFrame:
        """The methods on one upgrade, best first; see ``ranking_frame`` for the columns."""
        return ranking_frame(self.ranked((source, target), shots, transfer))

    def by_dataset(
        self,
        measure: Measure,
        source: str,
        target: str,
        shots: int | None = None,
        transfer: str = COPIED,
    ) -> pd.DataFrame:
        """One measure, methods × tasks and their ``mean``, methods in the order of the ranking."""
        rows = {}
        for one in (ranked.standing for ranked in self.ranked((source, target), shots, transfer)):
            means = {task: one.mean(measure, task) for task in one.tasks}
            means["mean"] = one.mean(measure)
            rows[one.info.name] = {name: mean and mean.value for name, mean in means.items()}
        return pd.DataFrame.from_dict(rows, "index", dtype="float64").rename_axis("method")

    def gaps(self) -> pd.DataFrame:
        """Every failed or missing measurement that the suite asks for, one row each."""
        columns = ["method", "title", "kind", "reason"]
        columns += ["task", "test_set", "shots", "seed", "backbone"]
        rows = [
            (gap.method, gap.title, gap.kind, gap.reason, *place)
            for gap in find_gaps(self.suite, self.expected)
            for place in gap.places
        ]
        return pd.DataFrame(rows, columns=columns)


def ranking_frame(ranks: Sequence[Ranked]) -> pd.DataFrame:
    """Ranked methods with all that is known of them, in their order.

    Accuracies, H, flips and ECE are in percent, gains in points, times in seconds. A figure is
    missing (NaN, None) if any cell that it needs is. The columns are

    * ``rank`` (``2=`` if shared), ``method``, ``title``, ``paper``, ``depth``, ``learns``,
      ``transfer``, ``state``;
    * ``source``, ``target``, ``h``, each with ``_std`` over seeds, ``h_low`` and ``h_high`` (95 %
      over datasets), ``h_of_averages``, ``gain``, ``source_gain``;
    * ``nfr``, ``pfr``, ``relative_nfr``, ``inconsistent``, ``source_ece``, ``target_ece``,
      ``harmed`` (datasets), ``worst_task`` and ``worst_gain``;
    * ``parameters`` (of the largest module), ``parameters_low``, ``module_bytes``,
      ``fit_seconds``, ``evaluate_seconds``, ``peak_memory``;
    * ``cells``, of which ``measured``, ``refused``, and the ``reasons`` of these.
    """
    columns = {name: [] for name in _COLUMNS}
    for one in ranks:
        row = _ranking_row(one.rank, one.standing)
        for name, values in columns.items():
            values.append(row[name])
    return pd.DataFrame(
        {name: pd.Series(values, dtype=_COLUMNS[name]) for name, values in columns.items()}
    )


def _ranking_row(rank: str, one: Standing) -> dict[str, Any]:
    info, interval = one.info, measure_interval(one, "h")
    spread = {side: one.mean(side) for side in ("source", "target", "h")}
    bounds = (interval.low, interval.high) if interval and interval.bounded else (None, None)
    harmed, parameters, averages = one.harmed, one.parameters, one.h_of_averages
    measured, cells = one.coverage
    return {
        "rank": rank,
        "method": info.name,
        "title": info.title,
        "paper": info.paper,
        "depth": info.depth,
        "learns": info.learns,
        "transfer": one.transfer,
        "state": one.state,
        **{side: mean and mean.value for side, mean in spread.items()},
        **{f"{side}_std": mean and mean.std for side, mean in spread.items()},
        "h_low": bounds[0],
        "h_high": bounds[1],
        "h_of_averages": averages and averages.value,
        **{name: (mean := one.mean(measure)) and mean.value for name, measure in _MEANS.items()},
        "relative_nfr": one.relative_flips,
        "harmed": harmed and harmed[0],
        "worst_task": harmed and harmed[1],
        "worst_gain": harmed and harmed[2],
        "parameters": parameters and parameters[1],
        "parameters_low": parameters and parameters[0],
        "module_bytes": module_bytes(one),
        "fit_seconds": one.fit_seconds if info.learns else None,
        "evaluate_seconds": evaluate_seconds(one.results, one),
        "peak_memory": peak_memory(one.results, one),
        "cells": cells,
        "measured": measured,
        "refused": one.refused,
        "reasons": one.reasons,
    }
