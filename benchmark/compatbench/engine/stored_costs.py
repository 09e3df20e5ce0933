"""What cells took before, by the cost files of results: a first guess of what they take here."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from compatbench.engine.cell import Cell
from compatbench.files.project_folders import shipped_results


def read_stored_seconds(cells: Iterable[Cell], suite: str, results: Path) -> dict[str, float]:
    """What cells took by their keys, from a folder ``results/``.

    Without costs of the suite there, those that come with the project. A file that cannot be read
    is left out: this is a guess, and whoever shows results says what is wrong with them.
    """
    for folder in (results / suite, shipped_results(suite)):
        fits, evaluations = dict[str, float](), defaultdict[str, float](float)
        for path in sorted(folder.glob("*.cost.csv")):
            try:
                with path.open(newline="", encoding="utf-8") as file:
                    for line in csv.DictReader(file):
                        fits[line["key"]] = float(line["fit_seconds"])
                        evaluations[line["key"]] += float(line["evaluate_seconds"])
            except (OSError, ValueError, KeyError, TypeError, csv.Error):
                continue
        if fits:
            # Without the fit of a module that was brought along.
            return {
                cell.key: evaluations[cell.key] + fits[cell.key] * (cell.key == cell.fit_key)
                for cell in cells
                if cell.key in fits
            }
    return {}
