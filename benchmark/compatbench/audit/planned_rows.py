"""Rows against the plan: the keys, weights and images of this checkout, and no other cell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from compatbench.audit.findings import Finding, list_findings
from compatbench.audit.method_files import PLACE
from compatbench.engine.cell import Cell
from compatbench.engine.keys import data_key
from compatbench.engine.missing import Missing

STALE = "is not what this checkout computes; the row is stale, or forged"


def plan_rows(file: str, cells: Iterable[Cell]) -> pd.DataFrame:
    """The measurements of a method's cells, with their ``key``, ``data``, ``cell`` and ``file``."""
    records = [
        (
            *(cell.name, cell.transfer, cell.task, cell.source, cell.shots, cell.seed),
            *(backbone, test_set, cell.key, data_key(backbone, test_set), str(cell), file),
        )
        for cell in cells
        for backbone in cell.backbones
        for test_set in cell.test_sets
    ]
    columns = ["method", *PLACE, "key", "data", "cell", "file"]
    return pd.DataFrame(records, columns=columns).astype({"shots": "int64", "seed": "int64"})


def rows_here(rows: pd.DataFrame, missing: Missing) -> Any:
    """Whether the weights and images that each row was made of are on this machine."""
    backbones = rows[["source", "backbone"]].isin(list(missing.backbones))
    test_sets = rows[["task", "test_set"]].isin(list(missing.test_sets))
    return ~np.hstack([backbones, test_sets]).any(axis=1)


def check_planned(rows: pd.DataFrame, planned: pd.DataFrame, missing: Missing) -> list[Finding]:
    """Rows that are not the plan's, and measurements of the plan without a row.

    Args:
        rows, planned: of the same methods of one suite.
        missing: what is not on this machine; its rows cannot be compared.
    """
    both = rows.merge(
        planned, how="outer", on=["method", *PLACE], suffixes=("", "_planned"), indicator=True
    )
    lost = both.query("_merge == 'right_only'")
    lost = lost.assign(file=lost["file_planned"], line=0)
    compared = both.loc[(both["_merge"] != "right_only") & rows_here(both, missing)]
    known = compared.query("_merge == 'both'")
    owners = planned.drop_duplicates("key").set_index("key")["cell"]
    stale = known.query("key != key_planned").assign(owner=lambda rows: rows["key"].map(owners))
    key = ("key", "{key_planned}", "{key}")
    data = ("data", "{data_planned}", "{data}")
    findings = _find_strangers(compared.query("_merge == 'left_only'"), planned)
    findings += list_findings(
        stale.query("owner.notna()"), "is the key of another cell, {owner}", *key
    )
    findings += list_findings(stale.query("owner.isna()"), STALE, *key)
    findings += list_findings(known.query("data != data_planned"), STALE, *data)
    return findings + list_findings(
        lost,
        "a measurement of the suite has no row",
        expected="a row of {cell} at {backbone} on {test_set}",
        found="none",
    )


def _find_strangers(rows: pd.DataFrame, planned: pd.DataFrame) -> list[Finding]:
    """Rows that the suite does not have: the first field with a value that no measurement has."""
    findings = []
    for row in rows.to_dict("records"):
        own = planned.loc[planned["method"] == row["method"]]
        known = {field: sorted({str(value) for value in own[field]}) for field in PLACE}
        field = next((field for field in PLACE if str(row[field]) not in known[field]), "")
        values = (" or ".join(known[field]), str(row[field])) if field else ()
        problem = "the suite has no such measurement"
        findings.append(Finding(row["file"], problem, int(row["line"]), field, *values))
    return findings
