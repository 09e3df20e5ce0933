"""The checks of a suite's results: settings, keys, predictions scored again, cells run again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

import pandas as pd

from compatbench.engine.cell import Cell
from compatbench.engine.flat_settings import flat_settings
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding, list_findings
from compatbench.extras.audit.stored_suite import DESCRIPTION, ROWS, StoredSuite
from compatbench.files.hashes import canonical_json
from compatbench.results.collect import rows_of
from compatbench.results.measures import list_measures
from compatbench.results.method_results import MethodResults
from compatbench.results.rows import Row, to_frame

STALE = "is not what this checkout computes; the row is stale"
# What of a row a run decides; keys and places are compared by themselves.
DECIDED = ("status", "reason", *list_measures("answers"), "prompt_diversity")
DECIDED += ("parameters", "module_bytes")


def check_settings(suite: StoredSuite) -> Iterator[Finding]:
    """The card and the settings of a method are those that this checkout resolves."""
    for name, expected in suite.expected.items():
        wanted, stored = map(_flatten, (expected, suite.methods[name]))
        for field in sorted(wanted.keys() | stored.keys()):
            values = [each.get(field, "nothing") for each in (wanted, stored)]
            if values[0] != values[1]:
                file, shown = f"{suite.folder / name}{DESCRIPTION}", (v[:60] for v in values)
                yield Finding(file, "is not as resolved here", 0, field, *shown)


def _flatten(results: MethodResults) -> dict[str, str]:
    """The card and settings of a method as JSON, by dotted name."""
    about = {"method": asdict(results.info), "config": results.config, "differs": results.differs}
    return {name: canonical_json(value) for name, value in flat_settings(about)}


def check_keys(suite: StoredSuite) -> list[Finding]:
    """Every row has the key, weights and images of this checkout; every planned one is there."""
    rows = suite.rows.loc[suite.rows["method"].isin(suite.expected)]
    on = ["method", *Row.place]
    both = rows.merge(suite.planned, "outer", on, suffixes=("", "_planned"), indicator=True)
    here = suite.here(both)
    known, strange = (here.loc[here["_merge"] == kind] for kind in ("both", "left_only"))
    findings = []
    for row, line in zip(strange.itertuples(), strange["line"].astype(int), strict=True):
        problem = f"the suite has no such measurement: {row.task}, {row.backbone}, {row.seed}"
        findings.append(Finding(str(row.file), problem, line))
    for field in ("key", "data"):
        stale = known.loc[known[field] != known[f"{field}_planned"]]
        findings += list_findings(stale, STALE, field, "_planned")
    problem = "a measurement of the suite has no row"
    for row in both.loc[both["_merge"] == "right_only"].itertuples():
        expected = f"a row of {row.cell} at {row.backbone} on {row.test_set}"
        findings.append(Finding(str(row.file_planned), problem, 0, "", expected, "none"))
    return findings


def score_again(suite: StoredSuite, store: RunStore) -> tuple[int, list[Finding]]:
    """Score the predictions of a store; return how many rows have some, and those that differ."""
    again: list[Row] = []
    for cell in suite.cells if store.folder.is_dir() else ():
        record = store.read(cell.key)
        if record is not None and store.is_done(cell, record):
            again += rows_of(cell, record, store)
    scored = to_frame(again, Row)
    return len(scored), _compare(suite.rows, scored, "is not what the stored predictions give")


def run_again(
    suite: StoredSuite, cells: Iterable[Cell], worker: Worker
) -> tuple[list[str], list[Finding]]:
    """Cells from nothing, beside their rows; what was made on another processor is counted.

    Returns:
        Notes, with the number of differing rows of results of other machines; and a finding for
        each difference of results of this one.
    """
    notes, findings = [], []
    differing = compared = 0
    for cell in cells:
        try:
            again = to_frame(rows_of(cell, worker.run(cell), worker.store), Row)
        except CompatbenchError as error:
            findings.append(Finding(f"{suite.folder / cell.name}{ROWS}", f"{cell}: {error}"))
            continue
        rows = suite.rows.loc[suite.rows["method"] == cell.name]
        different = _compare(rows, again, "the cell was run again and gave another value")
        if suite.is_of_this_machine(cell.name):
            findings += different
        else:
            compared += len(again)
            differing += len({finding.line for finding in different})
    if compared:
        made = "were made by another processor or other versions"
        notes.append(
            f"{suite.card.name}: of {compared} rows that were run again and {made}, "
            f"{differing} differ here"
        )
    return notes, findings


def _compare(rows: pd.DataFrame, again: pd.DataFrame, problem: str) -> list[Finding]:
    """The fields in which rows differ from those of the same key, place and data made again."""
    on = ["method", *Row.place, "key", "data"]
    both = rows.merge(again, on=on, suffixes=("", "_again"))
    findings = []
    for field, moved in find_moved(both, "_again").items():
        findings += list_findings(both.loc[moved], problem, str(field), "_again")
    return findings


def find_moved(both: pd.DataFrame, suffix: str) -> pd.DataFrame:
    """Where the values that a run decides are not those of the columns with a suffix.

    A measure that is newer than a row has no value there, and so says nothing.
    """
    stored, made = both[[*DECIDED]], both[[f"{name}{suffix}" for name in DECIDED]]
    made = made.set_axis([*DECIDED], axis=1)
    return (stored != made).fillna(False).astype(bool) & ~(stored.isna() | made.isna())
