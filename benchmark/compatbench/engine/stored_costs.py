"""The times of cells in result files: a first guess of their times on this machine."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from compatbench.engine.cell import Cell, shorten_key
from compatbench.files.project_folders import shipped_results

COSTS = "costs.csv"  # in the folder of a suite's results


def read_stored_seconds(cells: Iterable[Cell], suite: str, results: Path) -> dict[str, float]:
    """Return the seconds of cells by their keys, from a folder ``results/``.

    If the folder has no costs of the suite, those that come with the project are used. A file that
    cannot be read is skipped: this is only a guess, and whoever shows results reports their errors.
    """
    for folder in (results / suite, shipped_results(suite)):
        fits, evaluations = _read_costs(folder / COSTS)
        if not fits:
            continue
        seconds = {}
        for cell in cells:
            key = shorten_key(cell.key)
            if key in fits:
                seconds[cell.key] = evaluations[key]
                if cell.key == cell.fit_key:  # otherwise the fit is another cell's
                    seconds[cell.key] += fits[key]
        return seconds
    return {}


def _read_costs(path: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Return the seconds of fits and those of all predictions, by the keys in the file."""
    fits: dict[str, float] = {}
    evaluations = defaultdict[str, float](float)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if not line["fit_seconds"]:
                    continue  # the record of the fit was lost
                fits[line["key"]] = float(line["fit_seconds"])
                evaluations[line["key"]] += float(line["evaluate_seconds"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}, {}
    return fits, evaluations
