"""What cells took before, by the cost files of results: a first guess of what they take here."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from compatbench.engine.cell import Cell
from compatbench.files.project_folders import shipped_results


class StoredCost(NamedTuple):
    """Seconds of a module's fit, and of its evaluation."""

    fit: float
    evaluation: float

    def of(self, cell: Cell) -> float:
        """Seconds that a cell took, without the fit of a module that was brought along."""
        return self.evaluation + self.fit * (cell.key == cell.fit_key)


def read_stored_costs(suite: str, results: Path) -> dict[str, StoredCost]:
    """What cells took by their keys, from a folder ``results/``.

    Without costs of the suite there, those that come with the project. A file that cannot be read
    is left out: this is a guess, and whoever shows results says what is wrong with them.
    """
    for folder in (results / suite, shipped_results(suite)):
        if costs := _read_folder(folder):
            return costs
    return {}


def _read_folder(folder: Path) -> dict[str, StoredCost]:
    fits, evaluations = dict[str, float](), defaultdict[str, float](float)
    for path in sorted(folder.glob("*.cost.csv")):
        try:
            with path.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    fits[line["key"]] = float(line["fit_seconds"])
                    evaluations[line["key"]] += float(line["evaluate_seconds"])
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            continue
    return {key: StoredCost(seconds, evaluations[key]) for key, seconds in fits.items()}
