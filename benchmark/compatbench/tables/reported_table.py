"""The ranking of a suite whose rows were reported, with who measured each row."""

from __future__ import annotations

from dataclasses import replace

from compatbench.results.expected import Upgrade
from compatbench.results.reports import Origin, RowReport
from compatbench.tables.numbers import percent
from compatbench.tables.ranking_tables import SHORT, main_ranking, ranking_table
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Column, Table, TableCell, records, sentence, text

MEASURED_BY = Column("origin", "Measured by", "who reported or repeated the rows", left=True)


def reported_table(page: SuitePage, upgrade: Upgrade) -> Table:
    """Return the copied modules on an upgrade, each with who measured it."""
    ranking = main_ranking(page, upgrade)
    shown = ranking_table(ranking, SHORT)
    rows = []
    for method, cells in zip(records(ranking), shown.rows, strict=True):
        origin = page.origins.get(method["method"], Origin(""))
        rows.append((*cells, origin_cell(origin)))
    return replace(shown, columns=(*shown.columns, MEASURED_BY), rows=tuple(rows))


def origin_cell(origin: Origin) -> TableCell:
    """Return who reported the rows of a method, and who measured them again."""
    parts: list[str | TableCell] = ["not reported yet"]
    if origin.by:
        parts = ["reported by ", text(origin.by)]
    for person, difference in origin.again:
        parts += [
            "; measured again by ",
            text(person),
            f" (at most {percent(difference)} points apart)",
        ]
    return sentence(*parts)


def describe_report(report: RowReport) -> str:
    """Return the versions and weights of a report in words."""
    versions = []
    for name, values in report.versions.items():
        versions.append(f"{name} {' and '.join(values)}")
    weights = [f"{name} {sha[:12]}" for name, sha in report.weights.items()]
    return f"{', '.join(versions)}; SHA-256 of the weights: {', '.join(weights)}"
