"""The times of cells in result files: a first guess of their times on this machine."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.engine.cell import Cell, shorten_key
from compatbench.files.project_folders import shipped_results

COSTS = "costs.csv"  # in the folder of a suite's results


def read_stored_seconds(
    cells: Iterable[Cell], suite: str, results: Path, costs: pd.DataFrame | None = None
) -> dict[str, float]:
    """Return the seconds of cells by their keys, from a folder ``results/``.

    If the folder has no costs of the suite, those that come with the project are used. A file that
    cannot be read is skipped: this is only a guess, and whoever shows results reports their errors.

    Args:
        costs: those of the folder, if they have been read.
    """
    for folder in (results / suite, shipped_results(suite)):
        if costs is None or folder != results / suite:
            lines = _read_costs(folder / COSTS)
        else:
            # Without the seconds of a fit, its record was lost.
            lines = costs.dropna(subset="fit_seconds").to_dict("records")
        if not lines:
            continue
        fits = {line["key"]: line["fit_seconds"] for line in lines}
        evaluations = defaultdict[str, float](float)
        for line in lines:
            evaluations[line["key"]] += line["evaluate_seconds"]
        seconds = {}
        for cell in cells:
            key = shorten_key(cell.key)
            if key in fits:
                seconds[cell.key] = evaluations[key]
                if cell.key == cell.fit_key:  # otherwise the fit is another cell's
                    seconds[cell.key] += fits[key]
        return seconds
    return {}


def _read_costs(path: Path) -> list[dict[Any, Any]]:
    """Return the lines of a file that have the seconds of a fit; none if it cannot be read."""
    names = ["key", "fit_seconds", "evaluate_seconds"]
    try:
        frame = pd.read_csv(path, usecols=names, dtype={"key": str}, encoding="utf-8")
        frame = frame.astype({"fit_seconds": "float64", "evaluate_seconds": "float64"})
    except (OSError, ValueError):
        return []
    return frame.dropna().to_dict("records")
