"""Cells that are run again: which, and whether they give the numbers that are stored."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
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

COUNTS = ("correct", "total", "zero_shot_correct", *FLIPS)
# Milliseconds for seconds are a factor of 1000. A machine in use can make a fit slower by more
# than a hundred, so that a time proves little, and one that is too short proves nothing.
MOST_TIMES = 500
LEAST_SECONDS = 0.02
ECE_POINTS = 2.0


@dataclass(frozen=True)
class Sampled:
    """A cell to run again: from which of so many parts, from 1, the cheapest, it was drawn."""

    suite: str
    cell: Cell
    part: int
    parts: int
    seconds: float  # of its fit, by its cost file

    def __str__(self) -> str:
        which = f"part {self.part} of {self.parts} by cost"
        return f"{self.cell} ({which}, fit {self.seconds:,.1f} s as recorded)"

    def to_dict(self) -> dict[str, Any]:
        """The suite, the cell's place and key, and the part, as JSON values."""
        place = ("task", "source", "shots", "seed", "transfer", "key")
        cell = {name: getattr(self.cell, name) for name in place}
        method = {"suite": self.suite, "method": self.cell.name}
        return {**method, **cell, "part": self.part, "of": self.parts}


def draw_sample(
    stored: Mapping[str, StoredSuite], only: Collection[str] | None, count: int, seed: int
) -> list[Sampled]:
    """Draws from the cells of all suites that have rows, of the methods named if any are."""
    cells, seconds = {}, {}
    for name, suite in stored.items():
        seconds |= dict(zip(suite.costs["key"], suite.costs["fit_seconds"], strict=True))
        measured = set(suite.planned.merge(suite.rows[["method", *PLACE]])["key"])
        for cell in suite.cells:
            if cell.key in measured and (only is None or cell.name in only):
                cells.setdefault(cell.key, (name, cell))
    return sample_cells(list(cells.values()), seconds, count, seed)


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
    rows = suite.rows.loc[suite.rows["method"] == cell.name]
    try:
        record = Worker(RunStore(store), cache, device).run(cell)
    except CompatbenchError as error:
        yield Finding(rows["file"].iloc[0], f"{cell} cannot run: {error}")
        return
    again = to_frame(rows_of(cell, record), Row)
    yield from _compare_rows(suite, rows.merge(again, on=PLACE, suffixes=("", "_again")))
    if suite.tolerance.exact:
        costs = suite.costs.loc[suite.costs["key"] == cell.key]
        most = MOST_TIMES * max(record.fit_seconds, LEAST_SECONDS)
        yield from list_findings(
            costs.head(1).query(f"fit_seconds > {most}"),
            f"the fit took {record.fit_seconds:,.2f} s here; is the unit seconds?",
            "fit_seconds",
            f"at most {MOST_TIMES} times as much",
            "{fit_seconds:,.2f}",
        )


def _compare_rows(suite: StoredSuite, both: pd.DataFrame) -> Iterator[Finding]:
    problem = "the cell was run again and gave another number"
    unlike = both.query("status != status_again")
    yield from list_findings(unlike, problem, "status", "{status_again} {reason_again}")
    for field in ("parameters", "module_bytes"):
        unlike = both.query(f"{field} != {field}_again")
        yield from list_findings(unlike, problem, field, f"{{{field}_again}}")
    both = both.query("status == 'ok' and status_again == 'ok'")
    images = both["total_again"].map(suite.tolerance.of)
    points = 100 * images / both["total_again"] + ECE_POINTS
    most = {"total": 0, "ece": 1e-9 if suite.tolerance.exact else points + 1e-9}
    for field in (*COUNTS, "ece"):
        # What one side does not have is not compared.
        wrong = (both[field] - both[f"{field}_again"]).abs() > most.get(field, images)
        unlike = both.loc[wrong.fillna(False)]
        yield from list_findings(unlike, problem, field, f"{{{field}_again}}")
