"""Rows against the plan: the keys, weights and images of this checkout, and no other cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compatbench.audit.files import MethodFiles
from compatbench.audit.findings import Finding
from compatbench.engine.cell import Cell
from compatbench.engine.keys import data_key
from compatbench.engine.missing import Missing
from compatbench.engine.record import transfer_of
from compatbench.results.rows import Order, Row

STALE = "is not what this checkout computes; the row is stale, or forged"


@dataclass(frozen=True)
class Place:
    """A measurement that the suite asks for.

    Attributes:
        data: hash of the backbone's weights and of the test set.
    """

    cell: Cell
    data: str


def planned_places(cells: list[Cell]) -> dict[Order, Place]:
    """Every measurement of some cells, by its place in the method's file."""
    return {
        (*_fit_of(cell), backbone, test_set): Place(cell, data_key(backbone, test_set))
        for cell in cells
        for backbone in cell.backbones
        for test_set in cell.test_sets
    }


def _fit_of(cell: Cell) -> tuple[str, str, str, int, int]:
    return (transfer_of(cell.name), cell.task, cell.source, cell.shots, cell.seed)


def is_here(row: Row, missing: Missing) -> bool:
    """Whether the weights and images that a row was made of are on this machine."""
    backbones, test_sets = {row.source, row.backbone}, {row.task, row.test_set}
    return not (backbones & set(missing.backbones) or test_sets & set(missing.test_sets))


def check_places(
    files: MethodFiles,
    planned: Mapping[Order, Place],
    missing: Missing,
    owners: Mapping[str, str],
) -> list[Finding]:
    """Rows that are not the plan's, and places of the plan without a row.

    Args:
        planned: the method's places.
        missing: what is not on this machine; its rows cannot be compared.
        owners: key -> the cell it belongs to, of all methods of the suite.
    """
    findings = []
    for line, row in files.numbered_rows:
        if is_here(row, missing):
            findings += _check_row(files.rows_file, line, row, planned, owners)
    present = {row.order for row in files.results.rows}
    for place, item in planned.items():
        if place not in present:
            *_, backbone, test_set = place
            findings.append(
                Finding(
                    files.rows_file,
                    "a measurement of the suite has no row",
                    expected=f"a row of {item.cell} at {backbone} on {test_set}",
                    found="none",
                )
            )
    return findings


def _check_row(
    file: str, line: int, row: Row, planned: Mapping[Order, Place], owners: Mapping[str, str]
) -> list[Finding]:
    place = planned.get(row.order)
    if place is None:
        return [_stranger(file, line, row, planned)]
    findings = []
    if row.key != place.cell.key:
        other = owners.get(row.key)
        problem = f"is the key of another cell, {other}" if other else STALE
        findings.append(Finding(file, problem, line, "key", place.cell.key, row.key))
    if row.data != place.data:
        findings.append(Finding(file, STALE, line, "data", place.data, row.data))
    return findings


def _stranger(file: str, line: int, row: Row, planned: Mapping[Order, Place]) -> Finding:
    """A row in a place that the suite does not have: the first field that no place shares."""
    problem = "the suite has no such measurement"
    for index, (field, value) in enumerate(zip(Row.order_columns, row.order, strict=True)):
        known = sorted({str(place[index]) for place in planned})
        if str(value) not in known:
            return Finding(file, problem, line, field, " or ".join(known), str(value))
    return Finding(file, problem, line)
