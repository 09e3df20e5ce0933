"""Cells that are run again from nothing: how their rows and costs compare."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

import pandas as pd

from compatbench.engine.cell import Cell, CellRecord
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding, list_findings
from compatbench.extras.audit.result_checks import WHERE
from compatbench.extras.audit.sample import Sampled
from compatbench.extras.audit.stored_suite import PLACE, StoredSuite
from compatbench.extras.audit.tolerance import Tolerance
from compatbench.files.scratch import scratch_folder
from compatbench.results.collect import costs_of, rows_of
from compatbench.results.rows import FLIPS, Cost, Row, to_frame

COUNTS = ("correct", "total", "zero_shot_correct", *FLIPS)
# How many times the recorded costs may be those here, and those here the recorded ones. A machine
# in use, or asleep for a while, is slower by hundreds (one of our own rows by 560), but none is
# faster by as much. Peak memory is that of a process, or of the tensors on a GPU.
MOST_TIMES = {"fit_seconds": (1000, 20), "evaluate_seconds": (1000, 20), "peak_memory": (30, 30)}
# Less than this here is compared with nothing shorter, and counts as so much for the longest.
LEAST_SECONDS, SHORT_SECONDS = 0.2, 0.02
ECE_POINTS = 2.0
DIVERSITY = 0.05


def check_again(
    stored: Mapping[str, StoredSuite], one: Sampled, worker: Worker
) -> tuple[list[pd.DataFrame], list[Finding]]:
    """Runs a cell, and compares its rows and costs in every suite that has it.

    Returns:
        The rows beside those computed, for ``find_drift``, of files that name another machine;
        and what is wrong with single rows.
    """
    places: list[tuple[StoredSuite, Cell]] = [(stored[name], cell) for name, cell in one.stands]
    cells = [cell for _, cell in places]
    backbones = dict.fromkeys(name for cell in cells for name in cell.backbones)
    test_sets = dict.fromkeys(name for cell in cells for name in cell.test_sets)
    whole = replace(one.cell, backbones=tuple(backbones), test_sets=tuple(test_sets))
    frames, findings = [], []
    build, store = worker.build, worker.store
    once = cache(lambda: build(whole))  # its process keeps all its backbones
    worker.build = lambda _: once()
    try:
        record, here = run_timed(whole, worker)
        costs = pd.concat(s.costs.query(f"key == '{whole.key}'") for s, _ in places)
        if any(compare_costs(costs, here)):
            # Some of it may be done once for all cells, such as an import or texts: again without
            # that, in the same process, by another draw, so that no fit can be kept.
            seed = whole.seed + (whole.shots_file is None)
            with scratch_folder() as place:
                worker.store = RunStore(place)
                least = run_timed(replace(whole, seed=seed), worker)[1]
            here = here.where(here < least, least)
        findings += compare_costs(costs, here)
    except CompatbenchError as error:
        file = f"{places[0][0].folder / whole.name}.csv"
        return [], [Finding(file, f"{whole} cannot run: {error}")]
    finally:
        worker.build, worker.store = build, store
    for suite, cell in places:
        rows = suite.rows.loc[suite.rows["method"] == cell.name]
        again = to_frame(rows_of(cell, record), Row)
        both = rows.merge(again, on=PLACE, suffixes=("", "_again"))
        tolerance = suite.tolerances[cell.name]
        findings += _compare_rows(tolerance, both)
        both = both.assign(images=both["correct"] - both["correct_again"])
        frames += [both.dropna(subset="images")] if tolerance.whole else []
    return frames, findings


def run_timed(cell: Cell, worker: Worker) -> tuple[CellRecord, pd.DataFrame]:
    """A cell's record, and its costs by backbone and test set, as if nothing else ran here."""
    before = _free_share()
    record = worker.run(cell)
    costs = to_frame(costs_of(record), Cost).set_index(WHERE)[Cost.figures].astype("float64")
    costs[["fit_seconds", "evaluate_seconds"]] *= min(before, _free_share())
    return record, costs


def _free_share() -> float:
    """The share of a processor that other programs leave to one that never waits."""
    start, used = time.perf_counter(), time.process_time()
    while time.perf_counter() < start + 0.05:
        pass
    return min(1.0, (time.process_time() - used) / (time.perf_counter() - start))


def compare_costs(costs: pd.DataFrame, here: pd.DataFrame) -> Iterator[Finding]:
    """Recorded costs that are far from those here, whose index is backbone and test set."""
    both = costs.join(here.add_suffix("_here"), on=WHERE, how="inner")
    for field, (most, least) in MOST_TIMES.items():
        found, again = both[field], both[f"{field}_here"]
        low = (again / least).where(again >= LEAST_SECONDS, 0.0)
        high = most * again.clip(lower=SHORT_SECONDS)
        wrong = ((found < low) | (found > high)).fillna(False)
        yield from list_findings(
            both.assign(low=low, high=high).loc[wrong].drop_duplicates(["file", field]),
            f"the cell was run again and took {{{field}_here:,.3g}} here",
            field,
            "{low:,.3g} to {high:,.3g}",
            f"{{{field}:,.3g}}",
        )


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
