"""Cells that are run again from nothing: which are drawn, and how their rows compare."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from compatbench.audit.findings import Finding, list_findings
from compatbench.audit.stored_suite import PLACE, StoredSuite
from compatbench.audit.tolerance import Tolerance
from compatbench.engine.cell import Cell
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
DIVERSITY = 0.05


@dataclass(frozen=True)
class Sampled:
    """A cell to run again: from which of so many parts, from 1, the cheapest, it was drawn."""

    stands: tuple[tuple[str, Cell], ...]  # each suite that has it, and with which backbones
    part: int
    parts: int
    seconds: float  # of its fit, by its cost file

    @property
    def cell(self) -> Cell:
        return self.stands[0][1]

    @property
    def suites(self) -> list[str]:
        """The suites in which it is compared."""
        return list(dict.fromkeys(suite for suite, _ in self.stands))

    def __str__(self) -> str:
        which = f"part {self.part} of {self.parts} by cost"
        return f"{self.cell} ({which}, fit {self.seconds:,.1f} s as recorded)"

    def to_dict(self) -> dict[str, Any]:
        """The suites, the cell's place and key, and the part, as JSON values."""
        place = ("task", "source", "shots", "seed", "transfer", "key")
        cell = {name: getattr(self.cell, name) for name in place}
        method = {"suites": self.suites, "method": self.cell.name}
        return {**method, **cell, "part": self.part, "of": self.parts}


def draw_sample(
    stored: Mapping[str, StoredSuite], only: Collection[str] | None, count: int, seed: int
) -> list[Sampled]:
    """Draws from the cells of all suites that have rows, of the methods named if any are.

    A cell that several suites have is drawn once, for all of them.
    """
    cells, seconds = dict[str, list[tuple[str, Cell]]](), {}
    for name, suite in stored.items():
        seconds |= dict(zip(suite.costs["key"], suite.costs["fit_seconds"], strict=True))
        measured = set(suite.planned.merge(suite.rows[["method", *PLACE]])["key"])
        for cell in suite.cells:
            if cell.key in measured and (only is None or cell.name in only):
                cells.setdefault(cell.key, []).append((name, cell))
    return sample_cells(list(map(tuple, cells.values())), seconds, count, seed)


def sample_cells(
    cells: Sequence[tuple[tuple[str, Cell], ...]],
    seconds: Mapping[str, float],
    count: int,
    seed: int,
) -> list[Sampled]:
    """Draws cells: they are ordered by recorded cost and cut into parts, one from each.

    So a sample never consists of cheap cells alone, which a forger would hope for; an unknown cost
    counts as the longest. A method that was drawn already is avoided.
    """
    unknown = max(seconds.values(), default=0.0)
    every = [Sampled(stands, 0, 0, seconds.get(stands[0][1].key, unknown)) for stands in cells]
    every.sort(key=lambda one: (one.seconds, one.cell.name, one.cell.key))
    parts, rng, drawn = min(count, len(every)), random.Random(seed), list[Sampled]()
    for number in range(parts):
        part = every[number * len(every) // parts : (number + 1) * len(every) // parts]
        taken = {one.cell.name for one in drawn}
        one = rng.choice([one for one in part if one.cell.name not in taken] or part)
        drawn.append(replace(one, part=number + 1, parts=parts))
    return drawn


def check_again(
    suite: StoredSuite, cell: Cell, worker: Worker
) -> tuple[pd.DataFrame, list[Finding]]:
    """Runs a cell, and compares its rows and, on equal machines, its time.

    Returns:
        The rows beside those computed, for ``find_drift``, and what is wrong with single rows.
    """
    rows = suite.rows.loc[suite.rows["method"] == cell.name]
    try:
        record = worker.run(cell)
    except CompatbenchError as error:
        return rows[:0], [Finding(rows["file"].iloc[0], f"{cell} cannot run: {error}")]
    again = to_frame(rows_of(cell, record), Row)
    tolerance, both = (
        suite.tolerances[cell.name],
        rows.merge(again, on=PLACE, suffixes=("", "_again")),
    )
    findings = list(_compare_rows(tolerance, both))
    if tolerance.exact:
        costs = suite.costs.loc[suite.costs["key"] == cell.key]
        most = MOST_TIMES * max(record.fit_seconds, LEAST_SECONDS)
        findings += list_findings(
            costs.head(1).query(f"fit_seconds > {most}"),
            f"the fit took {record.fit_seconds:,.2f} s here; is the unit seconds?",
            "fit_seconds",
            f"at most {MOST_TIMES} times as much",
            "{fit_seconds:,.2f}",
        )
    return both.assign(images=both["correct"] - both["correct_again"]).dropna(
        subset="images"
    ), findings


def _compare_rows(tolerance: Tolerance, both: pd.DataFrame) -> Iterator[Finding]:
    problem = "the cell was run again and gave another number"
    unlike = both.query("status != status_again")
    yield from list_findings(unlike, problem, "status", "{status_again} {reason_again}")
    for column in ("parameters", "module_bytes"):
        unlike = both.query(f"{column} != {column}_again")
        yield from list_findings(unlike, problem, column, f"{{{column}_again}}")
    both = both.query("status == 'ok' and status_again == 'ok'")
    images = both["total_again"].map(tolerance.of)
    points = 100 * images / both["total_again"] + ECE_POINTS
    most = {"total": 0, "ece": 1e-9 if tolerance.exact else points + 1e-9}
    most["prompt_diversity"] = 1e-9 if tolerance.exact else DIVERSITY
    for column in (*COUNTS, "ece", "prompt_diversity"):
        # What one side does not have is not compared.
        wrong = (both[column] - both[f"{column}_again"]).abs() > most.get(column, images)
        unlike = both.loc[wrong.fillna(False)]
        yield from list_findings(unlike, problem, column, f"{{{column}_again}}")
