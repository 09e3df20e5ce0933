"""Cells that are run again, and how far their rows may be from those of another machine.

Rows of the same versions and processor have to be equal, value by value. Other processors add in
another order, and a fit can magnify the rounding. The limits below follow from a measurement:
all cells of the mini suite with seed 1 were run on an Intel Xeon and on an AMD EPYC. Of 5,676 rows,
97.6 % had the same number of correct answers. The largest difference was 5.4 % of the images of a
row (3 of 56), and 2.0 % as a mean over the rows of one cell. The other measures differed by up to
10.7 % (the agreement of old and new model). Zero-shot counts, statuses, parameters and the sizes of
modules were always equal.

The 180 rows of methods that the suite's card calls *unstable* are not among these: they differed by
up to 34.8 %, so no limit would say anything about them.
"""

from __future__ import annotations

import pandas as pd

from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.store import RunStore
from compatbench.extras.audit.findings import Finding, list_findings
from compatbench.extras.audit.stored_suite import ROWS, StoredSuite
from compatbench.extras.audit.suite_checks import compare_rows, find_moved, pair_rows
from compatbench.messages import conjugate
from compatbench.results.collect import rows_of
from compatbench.results.measures import list_measures
from compatbench.results.rows import Row, to_frame

# What another processor or other versions may change, in percent of the images of a row. Measures
# in percent may differ by as many points.
ROW_LIMIT = 6.0  # of correct answers
OTHER_LIMIT = 12.0  # of the other measures, which depend on two models or on confidence
CELL_LIMIT = 3.5  # the mean over the rows of a cell that has two or more, of correct answers
# What no processor changes.
EXACT = ("status", "parameters", "module_bytes")

ANOTHER_VALUE = "the cell was run again and gave another value"


class Rerun:
    """The cells of a suite that were run again, and what became of those of other machines."""

    def __init__(self, suite: StoredSuite, store: RunStore) -> None:
        self.suite = suite
        self.store = store  # where they were run
        self._compared = 0  # rows of other machines
        self._different = 0  # of these, rows with another value
        self._unstable: set[str] = set()  # methods without a limit, of which a cell was run again
        # The differences in correct answers, in percent of the images, where there is one.
        self._gaps: list[float] = []

    def check(self, cell: Cell, record: CellRecord) -> list[Finding]:
        """Score a cell. Return the rows that differ more than their machine explains."""
        file = f"{self.suite.folder / cell.name}{ROWS}"
        again = to_frame(rows_of(cell, record, self.store), Row)
        rows = self.suite.rows.loc[self.suite.rows["method"] == cell.name]
        if self.suite.is_of_this_machine(cell.name):
            return compare_rows(rows, again, ANOTHER_VALUE)
        both = pair_rows(rows, again)
        moved = find_moved(both, "_again")
        self._compared += len(both)
        self._different += int(moved.any(axis=1).sum())
        gaps = _gaps(both, "correct")
        self._gaps += gaps[gaps > 0].tolist()
        findings = find_impossible(both, moved)
        if cell.name in self.suite.card.unstable:
            self._unstable.add(cell.name)
        else:
            findings += find_too_far(both, str(cell), file)
        return findings

    def notes(self) -> list[str]:
        """Return how many rows of other machines differ here, in one line; none without such."""
        if not self._compared:
            return []
        made = "were made by another processor or other versions"
        differ = f"{self._different} {conjugate(self._different, 'differ')} here"
        if self._gaps:
            differ += f", {len(self._gaps)} of them in their correct answers, by up to "
            differ += f"{max(self._gaps):.1f} % of the images"
        name = self.suite.card.name
        notes = [f"{name}: of {self._compared} rows that were run again and {made}, {differ}"]
        if self._unstable:
            methods = ", ".join(sorted(self._unstable))
            unstable = "its card calls these methods unstable, so their numbers have no limit"
            notes.append(f"{name}: {unstable}: {methods}")
        return notes


def find_impossible(both: pd.DataFrame, moved: pd.DataFrame) -> list[Finding]:
    """Return what differs though no processor changes it.

    Args:
        both: rows of one cell, with the columns of the rows that were made again (``_again``).
        moved: the fields that differ, as ``find_moved`` has them.
    """
    findings = []
    for field in EXACT:
        findings += list_findings(both.loc[moved[field]], ANOTHER_VALUE, field, "_again")
    return findings


def find_too_far(both: pd.DataFrame, cell: str, file: str) -> list[Finding]:
    """Return what differs by more than another processor explains.

    Args:
        both: rows of one cell, with the columns of the rows that were made again (``_again``).
        cell: its name for people.
        file: the file of the rows.
    """
    findings = []
    for field in list_measures("answers"):
        limit = ROW_LIMIT if field == "correct" else OTHER_LIMIT
        problem = f"the cell was run again and is further away than processors are ({limit:g} %)"
        far = _gaps(both, field) > limit
        findings += list_findings(both.loc[far], problem, field, "_again")
    correct = _gaps(both, "correct").dropna()
    if len(correct) > 1 and correct.mean() > CELL_LIMIT:
        problem = (
            f"{cell}: run again, its {len(correct)} rows are {correct.mean():.1f} % of the images "
            f"away on average; processors differ by up to {CELL_LIMIT:g} %"
        )
        findings.append(Finding(file, problem))
    return findings


def _gaps(both: pd.DataFrame, field: str) -> pd.Series:
    """Return how far a measure has moved in each row, in percent of its images or in points."""
    stored = both[field].astype("float64")
    again = both[f"{field}_again"].astype("float64")
    gaps = (again - stored).abs()
    if list_measures("answers")[field].unit == "images":
        gaps = 100 * gaps / both["total"].astype("float64")
    return gaps
