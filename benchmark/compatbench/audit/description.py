"""``<method>.json`` against the method and the suite as they are in this checkout."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from compatbench.audit.findings import Finding
from compatbench.engine.cell import PACKAGES
from compatbench.files.hashes import canonical_json
from compatbench.results.store import MethodResults

_VERSION = re.compile(r"\d+(\.\d+)*[A-Za-z0-9.+_-]*")
_LONGEST = 60


def check_description(file: str, expected: MethodResults, found: MethodResults) -> list[Finding]:
    """The card, settings and provenance of a method's results.

    Args:
        expected: what this checkout would write.
    """
    findings = [
        Finding(file, "is not as resolved here", 0, field, _show(wanted), _show(value))
        for name, wanted_all, found_all in (
            ("method", asdict(expected.info), asdict(found.info)),
            ("config", dict(expected.config), dict(found.config)),
            ("differs", dict(expected.differs), dict(found.differs)),
        )
        for field, wanted, value in _differences(name, wanted_all, found_all)
    ]
    return findings + _check_provenance(file, found) if found.rows else findings


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


def _check_provenance(file: str, found: MethodResults) -> list[Finding]:
    """Every version that decides numbers is there, and looks like one."""
    findings = []
    for name in (*PACKAGES, "python", "processor"):
        values, field = found.provenance.get(name, ()), f"provenance.{name}"
        if not values:
            problem = "is missing; every result says what it was made with"
            findings.append(Finding(file, problem, 0, field))
        for value in values:
            if name != "processor" and not _VERSION.fullmatch(value):
                findings.append(Finding(file, f"is no version: {_show(value)}", 0, field))
    return findings


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else canonical_json(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
