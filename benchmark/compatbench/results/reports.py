"""Who measured the rows of real models, on what, and with which command: ``reported.json``.

The project cannot run real models. The file is beside the rows, in ``results/<suite>/``, and names
for each method the person who reported its rows, and everybody who has measured them again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from compatbench.data.cards import ConfigName
from compatbench.engine.cell import MadeBy, MadeWith
from compatbench.errors import CompatbenchError
from compatbench.messages import first_problem
from compatbench.results.rows import Row

REPORTED = "reported.json"
Person = Annotated[str, StringConstraints(pattern=r"^[\w ()@.,+/-]+$", max_length=100)]
Command = Annotated[
    str, StringConstraints(pattern=r"^compatbench run [\w ,.+-]+$", max_length=2000)
]
Backbone = Annotated[str, StringConstraints(pattern=r"^[\w ()@.,:+/-]+$", max_length=200)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class RowReport(BaseModel):
    """One person's measurement of some methods of a suite."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Person
    command: Command
    hardware: tuple[MadeWith, ...]
    versions: dict[MadeBy, tuple[MadeWith, ...]]
    weights: dict[Backbone, Sha256]  # SHA-256 of the weights files
    rows: dict[ConfigName, Sha256]  # by method, SHA-256 of the file of rows that was reported
    # Of rows that were measured again: the largest difference from the reported accuracy, over
    # models and test sets, in percentage points.
    differences: dict[ConfigName, float] = {}


class RowReports(BaseModel):
    """The content of a suite's ``reported.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    reported: tuple[RowReport, ...] = ()
    measured_again: tuple[RowReport, ...] = ()

    def origin(self, method: str, rows: str) -> Origin:
        """Return who measured the rows of a method.

        Args:
            rows: SHA-256 of its present file of rows.
        """
        by = ""
        for report in self.reported:
            if report.rows.get(method) == rows:
                by = report.by
        again = []
        for report in self.measured_again:
            if report.rows.get(method) == rows:
                again.append((report.by, report.differences[method]))
        return Origin(by, tuple(again))

    def add(self, report: RowReport) -> RowReports:
        """Return the reports with one more. Its rows take the place of earlier ones."""
        reported = _without(self.reported, report.rows)
        again = _without(self.measured_again, report.rows)
        return RowReports(reported=(*reported, report), measured_again=again)

    def add_again(self, report: RowReport) -> RowReports:
        """Return the reports with one more measurement of reported rows."""
        others = [each for each in self.measured_again if each.by != report.by]
        own = [each for each in self.measured_again if each.by == report.by]
        kept = (*others, *_without(own, report.rows))
        return RowReports(reported=self.reported, measured_again=(*kept, report))


@dataclass(frozen=True)
class Origin:
    """Who measured the rows of a method.

    Attributes:
        by: who reported them; empty if nobody has reported the present rows.
        again: who measured them again, each with the largest difference in percentage points.
    """

    by: str
    again: tuple[tuple[str, float], ...] = ()


def _without(reports: Iterable[RowReport], methods: Iterable[str]) -> tuple[RowReport, ...]:
    """Return reports without some methods; one that has no other methods is left out."""
    kept = []
    replaced = {*methods}
    for report in reports:
        rows = {name: sha for name, sha in report.rows.items() if name not in replaced}
        differences = {name: report.differences[name] for name in rows if report.differences}
        if rows:
            kept.append(report.model_copy(update={"rows": rows, "differences": differences}))
    return tuple(kept)


def largest_difference(reported: pd.DataFrame, again: pd.DataFrame) -> float | None:
    """Return the largest difference between two measurements of a method, in percentage points.

    Rows are compared that have the same key, place and data. None if a reported row was not
    measured again.
    """
    on = [*Row.place, "key", "data"]
    measured = reported.loc[reported["status"] == "ok"]
    both = measured.merge(again.loc[again["status"] == "ok"], on=on, suffixes=("", "_again"))
    if both.empty or len(both) < len(measured):
        return None
    before = 100 * both["correct"] / both["total"]
    after = 100 * both["correct_again"] / both["total_again"]
    return round(float((before - after).abs().max()), 4)


def reports_text(reports: RowReports) -> str:
    """Return the content of ``reported.json``."""
    values = reports.model_dump(mode="json")
    for report in values["reported"]:
        del report["differences"]
    return json.dumps(values, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def parse_reports(content: bytes, path: Path) -> RowReports:
    """Return the content of a ``reported.json``.

    Raises:
        CompatbenchError: it does not have its layout.
    """
    try:
        reports = RowReports.model_validate_json(content)
    except ValidationError as error:
        where, message = first_problem(error)
        raise CompatbenchError(f"{path}: '{where or 'file'}': {message}") from None
    for report in reports.measured_again:
        if report.differences.keys() != report.rows.keys():
            raise CompatbenchError(
                f"{path}: 'measured_again': {report.by} needs one of 'differences' for each method"
            )
    return reports


def find_origins(reports: RowReports, rows: Mapping[str, str]) -> dict[str, Origin]:
    """Return who measured the rows of each method.

    Args:
        rows: by method, SHA-256 of its present file of rows.
    """
    return {method: reports.origin(method, sha) for method, sha in rows.items()}
