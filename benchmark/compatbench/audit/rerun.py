"""Runs cells again in a store of their own, and holds their rows against the stored ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from compatbench.audit.files import MethodFiles
from compatbench.audit.findings import Finding
from compatbench.audit.tolerance import Tolerance
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.results.collect import costs_of, rows_of
from compatbench.results.rows import Row

COUNTS = (
    "correct",
    "total",
    "zero_shot_correct",
    "negative_flips",
    "positive_flips",
    "inconsistent_errors",
)
EXACT = ("status", "parameters", "module_bytes")
# Milliseconds for seconds are a factor of 1000. A machine in use can make a fit slower by more
# than a hundred, so that a time proves little, and one that is too short proves nothing.
MOST_TIMES = 500
LEAST_SECONDS = 0.02
ECE_POINTS = 2.0


def run_again(cell: Cell, store: Path, cache: FeatureCache, device: str) -> tuple[list[Row], float]:
    """The rows of a cell that is run from nothing, and the seconds of its fit.

    Raises:
        CompatbenchError: images, weights or the store cannot be used.
    """
    record = Worker(RunStore(store), cache, device).run(cell)
    costs = costs_of(record)
    return rows_of(cell, record), costs[0].fit_seconds if costs else 0.0


def compare_rows(
    files: MethodFiles, again: Sequence[Row], seconds: float, tolerance: Tolerance
) -> list[Finding]:
    """What of a cell's stored rows is not what running it again gave.

    Args:
        again: the rows of one cell.
        seconds: of its fit, this time; compared on the same machine only.
    """
    stored = {row.order: (line, row) for line, row in files.numbered_rows}
    findings = []
    for new in again:
        if new.order in stored:
            line, old = stored[new.order]
            findings += _compare(files.rows_file, line, old, new, tolerance)
    if again and tolerance.exact:
        findings += _compare_seconds(files, again[0].key, seconds)
    return findings


def _compare(file: str, line: int, old: Row, new: Row, tolerance: Tolerance) -> Iterator[Finding]:
    problem = "the cell was run again and gave another number"
    for field in EXACT:
        if getattr(old, field) != getattr(new, field):
            found = new.reason if field == "status" and new.reason else getattr(new, field)
            yield Finding(file, problem, line, field, str(found), str(getattr(old, field)))
    if old.status != "ok" or new.status != "ok":
        return
    assert new.total is not None
    images = tolerance.of(new.total)
    for field in COUNTS:
        was, now = getattr(old, field), getattr(new, field)
        # A row of an older layout has no flips; nothing is claimed there.
        most = 0 if field == "total" else images
        if was is not None and now is not None and abs(was - now) > most:
            yield Finding(file, problem, line, field, str(now), str(was))
    points = 0.0 if tolerance.exact else 100 * images / new.total + ECE_POINTS
    if old.ece is not None and new.ece is not None and abs(old.ece - new.ece) > points + 1e-9:
        yield Finding(file, problem, line, "ece", str(new.ece), str(old.ece))


def _compare_seconds(files: MethodFiles, key: str, now: float) -> list[Finding]:
    for line, cost in files.numbered_costs:
        if cost.key == key:
            if cost.fit_seconds <= MOST_TIMES * max(now, LEAST_SECONDS):
                return []
            problem = f"the fit took {now:,.2f} s here; is the unit seconds?"
            found = f"{cost.fit_seconds:,.2f}"
            most = f"at most {MOST_TIMES} times as much"
            return [Finding(files.cost_file, problem, line, "fit_seconds", most, found)]
    return []
