"""Runs cells again in a store of their own, and compares their rows with the stored ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from compatbench.audit.findings import Finding, list_findings
from compatbench.audit.method_files import COUNTS, PLACE, frame_of
from compatbench.audit.tolerance import Tolerance
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.results.collect import costs_of, rows_of

EXACT = ("status", "parameters", "module_bytes")
# Milliseconds for seconds are a factor of 1000. A machine in use can make a fit slower by more
# than a hundred, so that a time proves little, and one that is too short proves nothing.
MOST_TIMES = 500
LEAST_SECONDS = 0.02
ECE_POINTS = 2.0


def run_again(
    cell: Cell, store: Path, cache: FeatureCache, device: str
) -> tuple[pd.DataFrame, float]:
    """The rows of a cell that is run from nothing, and the seconds of its fit.

    Raises:
        CompatbenchError: images, weights or the store cannot be used.
    """
    record = Worker(RunStore(store), cache, device).run(cell)
    costs = costs_of(record)
    rows = frame_of([("", cell.name, rows_of(cell, record))])
    return rows, costs[0].fit_seconds if costs else 0.0


def compare_rows(rows: pd.DataFrame, again: pd.DataFrame, tolerance: Tolerance) -> list[Finding]:
    """Where a method's stored rows are not what running one of its cells again gave."""
    both = rows.merge(again, on=PLACE, suffixes=("", "_again"))
    findings = []
    for field in EXACT:
        findings += _list_differences(both.query(f"{field} != {field}_again"), field)
    both = both.query("status == 'ok' and status_again == 'ok'")
    both = both.assign(images=[tolerance.of(total) for total in both["total_again"]])
    points = 0.0 if tolerance.exact else both.eval("100 * images / total_again") + ECE_POINTS
    for field in (*COUNTS, "ece"):
        gap = both.eval(f"abs({field} - {field}_again)")
        most = 0 if field == "total" else points + 1e-9 if field == "ece" else both["images"]
        # What one side does not have is not compared.
        findings += _list_differences(both.loc[(gap > most).fillna(False)], field)
    return findings


def _list_differences(wrong: pd.DataFrame, field: str) -> list[Finding]:
    expected = f"{{{field}_again}}"
    if field == "status":
        reasons = wrong["reason_again"].where(wrong["reason_again"] != "", wrong["status_again"])
        wrong = wrong.assign(status_again=reasons)
    problem = "the cell was run again and gave another number"
    return list_findings(wrong, problem, field, expected, f"{{{field}}}")


def compare_seconds(costs: pd.DataFrame, key: str, seconds: float) -> list[Finding]:
    """Whether the fit of a cell is recorded with a time that its fit on this machine excludes.

    Args:
        seconds: what the fit took, this time.
    """
    most = MOST_TIMES * max(seconds, LEAST_SECONDS)
    return list_findings(
        costs.loc[costs["key"] == key].head(1).query(f"fit_seconds > {most}"),
        f"the fit took {seconds:,.2f} s here; is the unit seconds?",
        "fit_seconds",
        f"at most {MOST_TIMES} times as much",
        "{fit_seconds:,.2f}",
    )
