"""``<method>.json`` and ``<method>.cost.csv`` against the method, the suite and the rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from compatbench.audit.files import MethodFiles
from compatbench.audit.findings import Finding
from compatbench.engine.provenance import PACKAGES
from compatbench.files.hashes import canonical_json
from compatbench.results.store import MethodResults

ALSO = ("python", "processor")
_VERSION = re.compile(r"\d+(\.\d+)*[A-Za-z0-9.+_-]*")
_LONGEST = 60


def check_about(files: MethodFiles, expected: MethodResults) -> list[Finding]:
    """The card, settings and provenance; ``expected`` is what this checkout would write."""
    pairs: tuple[tuple[str, Any, Any], ...] = (
        ("method", asdict(expected.info), asdict(files.results.info)),
        ("config", dict(expected.config), dict(files.results.config)),
        ("differs", dict(expected.differs), dict(files.results.differs)),
    )
    findings = [
        Finding(files.about_file, "is not as resolved here", 0, field, _show(wanted), _show(found))
        for name, wanted_all, found_all in pairs
        for field, wanted, found in _differences(name, wanted_all, found_all)
    ]
    return findings + _check_provenance(files)


def _differences(name: str, expected: Any, found: Any) -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, expected, found) of the deepest values that differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            if key not in expected or key not in found:
                yield f"{name}.{key}", expected.get(key, "nothing"), found.get(key, "nothing")
            else:
                yield from _differences(f"{name}.{key}", expected[key], found[key])
    elif canonical_json(expected) != canonical_json(found):
        yield name, expected, found


def _check_provenance(files: MethodFiles) -> list[Finding]:
    """Every version that decides numbers is there, and looks like one."""
    if not files.results.rows:
        return []
    provenance, findings = files.results.provenance, []
    for name in (*PACKAGES, *ALSO):
        values = provenance.get(name, ())
        field = f"provenance.{name}"
        if not values:
            problem = "is missing; every result says what it was made with"
            findings.append(Finding(files.about_file, problem, 0, field))
        for value in values:
            if name != "processor" and not _VERSION.fullmatch(value):
                problem = f"is no version: {_show(value)}"
                findings.append(Finding(files.about_file, problem, 0, field))
    return findings


def check_costs(files: MethodFiles) -> list[Finding]:
    """A cost for every row that was measured, none without its fit, one fit time for each fit.

    A fit that several suites share has more costs than this suite has rows.
    """
    rows = {(row.key, row.backbone, row.test_set): (line, row) for line, row in files.numbered_rows}
    keys = {row.key for row in files.results.rows}
    findings = []
    fits: dict[str, tuple[int, float]] = {}
    for line, cost in files.numbered_costs:
        if cost.key not in keys:
            problem = "no row is of a cell with this key"
            findings.append(Finding(files.cost_file, problem, line, "key"))
        first, seconds = fits.setdefault(cost.key, (line, cost.fit_seconds))
        if cost.fit_seconds != seconds:
            problem = f"is not that of the same fit in line {first}"
            findings.append(
                Finding(
                    files.cost_file,
                    problem,
                    line,
                    "fit_seconds",
                    str(seconds),
                    str(cost.fit_seconds),
                )
            )
    costs = {cost.order for cost in files.results.costs}
    for order, (line, row) in rows.items():
        if row.status != "failed" and order not in costs:
            problem = f"has no line for line {line} of {row.method}.csv"
            findings.append(Finding(files.cost_file, problem, 0, "key", row.key, "none"))
    return findings


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
