"""The table of known and other classes, for suites with a protocol that tests both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from compatbench.data.cards import COPIED
from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.results.expected import Upgrade
from compatbench.results.other_classes import MODELS, Classes, measure_other_classes
from compatbench.tables.numbers import interval_text, percent
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table, number, plain_table, records, text

# The names that a protocol gives to the classes of the training set, and to the others.
NAMES = {"base-to-new": ("Base", "New"), "cross-dataset": ("Trained", "Others")}


def has_other_classes(page: SuitePage) -> bool:
    """Return True if modules are tested on classes that they were not fitted for."""
    return page.expected.protocol != "few-shot" and bool(page.results.methods)


def classes_table(page: SuitePage, upgrade: Upgrade, top: int | None = None) -> Table:
    """Return the four accuracies of every method and their harmonic means, best first.

    Methods that see the test images are left out.

    Args:
        top: the number of methods; all of them by default.
    """
    known, other = NAMES[page.expected.protocol]
    header = [
        "Method",
        known,
        other,
        f"H of {known.lower()} and {other.lower()}",
        f"H, {known.lower()}",
        f"H, {other.lower()}",
        "H of all four",
        "95 %",
    ]
    measured = measure_other_classes(page.results, page.expected, upgrade, page.most_shots)
    is_shown = (measured["transfer"] == COPIED) & ~measured["sees_tests"]
    measured = measured[is_shown]
    rows = []
    for method in records(measured[:top]):
        cells = [
            _source_to_target(method, "own"),
            _source_to_target(method, "other"),
            _source_to_target(method, "h"),
            percent(method["h_own"]),
            percent(method["h_other"]),
            percent(method["four"]),
            interval_text(method, "four"),
        ]
        if method["other_reason"].startswith(NOT_APPLICABLE):
            # Only the accuracy and the mean of the known classes are defined.
            cells = [cells[0], "n/a", "n/a", cells[3], "n/a", "n/a", "n/a"]
        title = text(method["title"], method["paper"])
        rows.append([title, *map(number, cells)])
    return plain_table(header, rows)


def _source_to_target(method: Mapping[str, Any], name: Classes | Literal["h"]) -> str:
    """Return a method's values on source and target, such as ``61.9 → 56.8``."""
    return " → ".join(percent(method[f"{name}_{model}"]) for model in MODELS)
