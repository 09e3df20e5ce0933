"""Cells that are run again: which, and whether they give the numbers that are stored."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from compatbench.audit.findings import Finding, list_findings
from compatbench.audit.stored_suite import PLACE, StoredSuite
from compatbench.data.feature_cache import FeatureCache
from compatbench.engine.cell import Cell
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError
from compatbench.results.collect import rows_of
from compatbench.results.rows import FLIPS, Row, to_frame

EXACT = ("status", "parameters", "module_bytes")
COUNTS = ("correct", "total", "zero_shot_correct", *FLIPS)
# Milliseconds for seconds are a factor of 1000. A machine in use can make a fit slower by more
# than a hundred, so that a time proves little, and one that is too short proves nothing.
MOST_TIMES = 500
LEAST_SECONDS = 0.02
ECE_POINTS = 2.0


@dataclass(frozen=True)
class Sampled:
    """A cell to run again.

    Attributes:
        part: from 1, the cheapest, to ``parts``.
        seconds: what its fit took, by its cost file.
    """

    suite: str
    cell: Cell
    part: int
    parts: int
    seconds: float

    def __str__(self) -> str:
        which = f"part {self.part} of {self.parts} by cost"
        return f"{self.cell} ({which}, fit {self.seconds:,.1f} s as recorded)"

    def to_dict(self) -> dict[str, Any]:
        """The suite, the cell's place and key, and the part, as JSON values."""
        place = ("task", "source", "shots", "seed", "transfer", "key")
        cell = {name: getattr(self.cell, name) for name in place}
        method = {"suite": self.suite, "method": self.cell.name}
        return {**method, **cell, "part": self.part, "of": self.parts}


def sample_cells(
    cells: Sequence[tuple[str, Cell]], seconds: Mapping[str, float], count: int, seed: int
) -> list[Sampled]:
    """Draws cells: they are ordered by recorded cost and cut into parts, one from each.

    So a sample never consists of cheap cells alone, which a forger would hope for. Within a
    part every cell is as likely as any other, but for a method that was drawn already.

    Args:
        cells: each with the name of its suite.
        seconds: cell key -> recorded seconds of its fit; unknown ones count as the longest.
    """
    unknown = max(seconds.values(), default=0.0)
    costs = {cell.key: seconds.get(cell.key, unknown) for _, cell in cells}
    ordered = sorted(cells, key=lambda one: (costs[one[1].key], one[1].name, one[1].key))
    parts, rng, drawn = min(count, len(ordered)), random.Random(seed), list[Sampled]()
    for number in range(parts):
        part = ordered[number * len(ordered) // parts : (number + 1) * len(ordered) // parts]
        taken = {one.cell.name for one in drawn}
        suite, cell = rng.choice([one for one in part if one[1].name not in taken] or part)
        drawn.append(Sampled(suite, cell, number + 1, parts, costs[cell.key]))
    return drawn


def check_again(
    suite: StoredSuite, cell: Cell, store: Path, cache: FeatureCache, device: str
) -> Iterator[Finding]:
    """Runs a cell from nothing, and compares its rows and, on equal machines, its time."""
    rows, costs = (one.loc[one["method"] == cell.name] for one in (suite.rows, suite.costs))
    try:
        record = Worker(RunStore(store), cache, device).run(cell)
    except CompatbenchError as error:
        yield Finding(rows["file"].iloc[0], f"{cell} cannot run: {error}")
        return
    yield from _compare_rows(suite, rows, to_frame(rows_of(cell, record), Row))
    if suite.tolerance.exact:
        yield from _compare_seconds(costs.loc[costs["key"] == cell.key], record.fit_seconds)


def _compare_rows(suite: StoredSuite, rows: pd.DataFrame, again: pd.DataFrame) -> Iterator[Finding]:
    both = rows.merge(again, on=PLACE, suffixes=("", "_again"))
    for field in EXACT:
        yield from _list_differences(both.query(f"{field} != {field}_again"), field)
    both = both.query("status == 'ok' and status_again == 'ok'")
    both = both.assign(images=both["total_again"].map(suite.tolerance.of))
    points = both.eval("100 * images / total_again") + ECE_POINTS
    most = {"total": 0, "ece": 1e-9 if suite.tolerance.exact else points + 1e-9}
    for field in (*COUNTS, "ece"):
        # What one side does not have is not compared.
        wrong = (both[field] - both[f"{field}_again"]).abs() > most.get(field, both["images"])
        yield from _list_differences(both.loc[wrong.fillna(False)], field)


def _list_differences(wrong: pd.DataFrame, field: str) -> list[Finding]:
    if field == "status":
        reasons = wrong["reason_again"].where(wrong["reason_again"] != "", wrong["status_again"])
        wrong = wrong.assign(status_again=reasons)
    problem = "the cell was run again and gave another number"
    return list_findings(wrong, problem, field, f"{{{field}_again}}", f"{{{field}}}")


def _compare_seconds(costs: pd.DataFrame, seconds: float) -> list[Finding]:
    """Whether a fit is recorded with a time that its fit on this machine excludes.

    Args:
        seconds: what the fit took, this time.
    """
    most = MOST_TIMES * max(seconds, LEAST_SECONDS)
    return list_findings(
        costs.head(1).query(f"fit_seconds > {most}"),
        f"the fit took {seconds:,.2f} s here; is the unit seconds?",
        "fit_seconds",
        f"at most {MOST_TIMES} times as much",
        "{fit_seconds:,.2f}",
    )
