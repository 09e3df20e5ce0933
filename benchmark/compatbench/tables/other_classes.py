"""The table of known and other classes, for suites whose protocol tests both."""

from __future__ import annotations

from compatbench.engine.cell import NOT_APPLICABLE
from compatbench.results.expected import Upgrade
from compatbench.results.four_ways import MODELS, Classes, FourWays, measure_four_ways
from compatbench.results.ranks import exact
from compatbench.tables.numbers import bounds, percent
from compatbench.tables.suite_page import SuitePage
from compatbench.tables.table import Table, number, plain_table, text

# The names that a protocol gives to the classes of the training set, and to the others.
NAMES = {"base-to-new": ("Base", "New"), "cross-dataset": ("Trained", "Others")}


def has_other_classes(page: SuitePage) -> bool:
    """Return True if modules are tested on classes that they were not fitted for."""
    return page.expected.protocol != "few-shot" and bool(page.results.all)


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
        "Four-way H",
        "95 %",
    ]
    methods = [method for method in page.results.methods.values() if not method.info.sees_tests]
    measured = measure_four_ways(methods, page.expected, upgrade, max(page.expected.shots))
    rows = []
    for ways in measured[:top]:
        cells = [
            _accuracies(ways, "own"),
            _accuracies(ways, "other"),
            " → ".join(_mean(ways, f"h_{model}") for model in MODELS),
            _mean(ways, "h_own"),
            _mean(ways, "h_other"),
            _mean(ways, "four"),
            bounds(ways.mean("four")),
        ]
        if ways.reasons["other"].startswith(NOT_APPLICABLE):
            cells = [cells[0], "n/a", "n/a", cells[3], "n/a", "n/a", "n/a"]
        rows.append([text(ways.info.title, ways.info.paper), *map(number, cells)])
    return plain_table(header, rows)


def _accuracies(ways: FourWays, classes: Classes) -> str:
    """Return the accuracies on source and target, such as ``61.9 → 56.8``."""
    return " → ".join(_mean(ways, f"{classes}_{model}") for model in MODELS)


def _mean(ways: FourWays, name: str) -> str:
    return percent(exact(ways.mean(name)))
