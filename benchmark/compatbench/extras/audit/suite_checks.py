"""The checks of a suite's results: settings, keys, predictions scored again, cells run again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd

from compatbench.engine.cell import Cell
from compatbench.engine.store import RunStore
from compatbench.engine.worker import Worker
from compatbench.errors import CompatbenchError
from compatbench.extras.audit.findings import Finding, list_findings
from compatbench.extras.audit.stored_suite import DESCRIPTION, PLACE, ROWS, StoredSuite
from compatbench.files.hashes import canonical_json
from compatbench.results.collect import rows_of
from compatbench.results.measures import list_measures
from compatbench.results.rows import Row, to_frame

STALE = "is not what this checkout computes; the row is stale"
# What of a row a run decides; keys and places are compared by themselves.
DECIDED = ("status", *list_measures("answers"), "prompt_diversity", "parameters", "module_bytes")
LONGEST = 60


def check_settings(suite: StoredSuite) -> Iterator[Finding]:
    """The card and the settings of a method are those that this checkout resolves."""
    for name, expected in suite.expected.items():
        wanted, stored = (
            {"method": asdict(each.info), "config": dict(each.config), "differs": {**each.differs}}
            for each in (expected, suite.methods[name])
        )
        for field, *values in _differences("", wanted, stored):
            file, problem = f"{suite.folder / name}{DESCRIPTION}", "is not as resolved here"
            yield Finding(file, problem, 0, field[1:], *map(_show, values))


def _differences(name: str, expected: Any, stored: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, expected, stored) of the deepest values that differ."""
    if isinstance(expected, dict) and isinstance(stored, dict):
        for key in sorted({*expected, *stored}):
            if key not in expected or key not in stored:
                yield f"{name}.{key}", expected.get(key, "nothing"), stored.get(key, "nothing")
            else:
                yield from _differences(f"{name}.{key}", expected[key], stored[key])
    elif canonical_json(expected) != canonical_json(stored):
        yield name, expected, stored


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def check_keys(suite: StoredSuite) -> list[Finding]:
    """Every row has the key, weights and images of this checkout; every planned one is there."""
    rows = suite.rows.loc[suite.rows["method"].isin(suite.expected)]
    both = rows.merge(
        suite.planned,
        how="outer",
        on=["method", *PLACE],
        suffixes=("", "_planned"),
        indicator=True,
    )
    lost = both.query("_merge == 'right_only'")
    lost = lost.assign(file=lost["file_planned"], line=0)
    compared = suite.here(both.query("_merge != 'right_only'"))
    known = compared.query("_merge == 'both'")
    strange = compared.query("_merge == 'left_only'")
    return [
        *list_findings(strange, "the suite has no such measurement: {task}, {backbone}, {seed}"),
        *list_findings(known.query("key != key_planned"), STALE, "key", "{key_planned}"),
        *list_findings(known.query("data != data_planned"), STALE, "data", "{data_planned}"),
        *list_findings(
            lost,
            "a measurement of the suite has no row",
            expected="a row of {cell} at {backbone} on {test_set}",
            found="none",
        ),
    ]


def score_again(suite: StoredSuite, store: RunStore) -> tuple[int, list[Finding]]:
    """How many rows have predictions in a store, and those that these predictions do not give."""
    again: list[Row] = []
    for cell in suite.cells:
        record = store.read(cell.key)
        if record is not None and store.is_done(cell, record):
            again += rows_of(cell, record, store)
    problem = "is not what the stored predictions give"
    return len(again), [*_compare(suite.rows, again, problem)]


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
            again = rows_of(cell, worker.run(cell), worker.store)
        except CompatbenchError as error:
            findings.append(Finding(f"{suite.folder / cell.name}{ROWS}", f"{cell}: {error}"))
            continue
        problem = "the cell was run again and gave another value"
        rows = suite.rows.loc[suite.rows["method"] == cell.name]
        different = [*_compare(rows, again, problem)]
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


def _compare(rows: pd.DataFrame, again: list[Row], problem: str) -> Iterator[Finding]:
    """The fields in which rows differ from those of the same key, place and data made again."""
    both = rows.merge(
        to_frame(again, Row), on=[*PLACE, "key", "data"], how="inner", suffixes=("", "_again")
    )
    for column in DECIDED:
        stored, made = both[column], both[f"{column}_again"]
        # A measure that is newer than the row has no value there.
        wrong = (stored != made).fillna(False) & ~(stored.isna() | made.isna())
        yield from list_findings(both.loc[wrong], problem, column, f"{{{column}_again}}")
