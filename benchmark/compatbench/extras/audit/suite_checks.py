"""The checks of a suite's results: settings, keys, and predictions that are scored again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from compatbench.engine.flat_settings import flat_settings
from compatbench.engine.store import RunStore
from compatbench.extras.audit.findings import Finding, list_findings
from compatbench.extras.audit.stored_suite import DESCRIPTION, StoredSuite
from compatbench.files.hashes import canonical_json
from compatbench.results.collect import rows_of
from compatbench.results.measures import list_measures
from compatbench.results.result_files import ResultFiles
from compatbench.results.rows import Row, to_frame
from compatbench.results.stored_method import StoredMethod

STALE = "is not what this checkout computes; the row is stale"
# What a run decides of a row; keys and places are compared by themselves.
DECIDED = (
    *("status", "reason", *list_measures("answers"), "prompt_diversity"),
    *("parameters", "module_bytes"),
)
LONGEST = 60  # characters of a setting that a finding shows


def check_settings(suite: StoredSuite) -> Iterator[Finding]:
    """Yield the settings of methods, and facts of their cards, that are not as resolved here."""
    for name, results in suite.expected.items():
        file = f"{suite.folder / name}{DESCRIPTION}"
        expected = _flatten(results)
        stored = _flatten(suite.methods[name])
        for field in sorted(expected.keys() | stored.keys()):
            here = expected.get(field, "nothing")
            there = stored.get(field, "nothing")
            if here != there:
                shown = here[:LONGEST], there[:LONGEST]
                yield Finding(file, "is not as resolved here", 0, field, *shown)


def _flatten(results: StoredMethod) -> dict[str, str]:
    """Return the card and settings of a method as JSON, by dotted name."""
    about = {"method": asdict(results.info), "config": results.config, "differs": results.differs}
    return {name: canonical_json(value) for name, value in flat_settings(about)}


def check_keys(suite: StoredSuite) -> list[Finding]:
    """Return the rows with a key, weights or images of another checkout, and the missing rows."""
    rows = suite.rows.loc[suite.rows["method"].isin(suite.expected)]
    on = ["method", *Row.place]
    both = rows.merge(suite.planned, "outer", on, suffixes=("", "_planned"), indicator=True)
    here = suite.here(both)
    findings = []
    strange = here.loc[here["_merge"] == "left_only"]
    for row, line in zip(strange.itertuples(), strange["line"].astype(int), strict=True):
        problem = f"the suite has no such measurement: {row.task}, {row.backbone}, {row.seed}"
        findings.append(Finding(str(row.file), problem, line))
    known = here.loc[here["_merge"] == "both"]
    for field in ("key", "data"):
        stale = known.loc[known[field] != known[f"{field}_planned"]]
        findings += list_findings(stale, STALE, field, "_planned")
    problem = "a measurement of the suite has no row"
    for row in both.loc[both["_merge"] == "right_only"].itertuples():
        expected = f"a row of {row.cell} at {row.backbone} on {row.test_set}"
        findings.append(Finding(str(row.file_planned), problem, 0, "", expected, "none"))
    return findings


def check_origins(suite: StoredSuite, files: ResultFiles) -> Iterator[Finding]:
    """Yield the methods of a reported suite whose present rows nobody has reported."""
    for name, origin in files.read_origins(suite.card.name).items():
        if not origin.by:
            command = f"compatbench maintain submit --suite {suite.card.name}"
            problem = f"nobody has reported these rows; run '{command}'"
            yield Finding(f"{suite.folder / name}.csv", problem)


@dataclass(frozen=True)
class Scored:
    """What the predictions of a store say about the rows of a suite.

    Attributes:
        rows: How many rows have predictions that were compared with them.
        elsewhere: How many cells have predictions of another processor or other versions than
            those that made the rows. They are another measurement, and are not compared.
        findings: The rows that are not what their predictions give.
    """

    rows: int = 0
    elsewhere: int = 0
    findings: Sequence[Finding] = ()


def score_again(suite: StoredSuite, store: RunStore) -> Scored:
    """Score the predictions of a store, and compare them with the rows."""
    if not store.folder.is_dir():
        return Scored()
    again: list[Row] = []
    elsewhere = 0
    for cell in suite.cells:
        record = store.read(cell.key)
        if record is None or not store.is_done(cell, record):
            continue
        if suite.names_machine_of(cell.name, record):
            again += rows_of(cell, record, store)
        else:
            elsewhere += 1
    scored = to_frame(again, Row)
    findings = compare_rows(suite.rows, scored, "is not what the stored predictions give")
    return Scored(len(scored), elsewhere, findings)


def compare_rows(rows: pd.DataFrame, again: pd.DataFrame, problem: str) -> list[Finding]:
    """Return the fields in which rows differ from those of the same key that were made again."""
    both = pair_rows(rows, again)
    findings = []
    for field, moved in find_moved(both, "_again").items():
        findings += list_findings(both.loc[moved], problem, str(field), "_again")
    return findings


def pair_rows(rows: pd.DataFrame, again: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were made again, beside those of the same key, place and data."""
    on = ["method", *Row.place, "key", "data"]
    return rows.merge(again, on=on, suffixes=("", "_again"))


def find_moved(both: pd.DataFrame, suffix: str) -> pd.DataFrame:
    """Return where the values that a run decides are not those of the columns with a suffix.

    A measure that is newer than a row has no value there, and so says nothing.
    """
    stored = both[[*DECIDED]]
    made = both[[f"{name}{suffix}" for name in DECIDED]].set_axis([*DECIDED], axis=1)
    unknown = stored.isna() | made.isna()
    return (stored != made).fillna(False).astype(bool) & ~unknown
