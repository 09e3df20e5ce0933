"""Checks that results have what their suite asks for, and that no seed is a copy of another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from compatbench.extras.audit.findings import Finding
from compatbench.extras.audit.stored_suite import ROWS, StoredSuite
from compatbench.results.measures import list_measures

# Everything that names a row of a method, but its seed.
PLACE = ["task", "source", "shots", "backbone", "test_set"]


def check_completeness(suite: StoredSuite) -> Iterator[Finding]:
    """Yield the methods and seeds that a suite asks for without a row, and copied seeds.

    A cell without rows, of a method and a seed that have some, is found with the keys. Reported
    rows may be of some methods and seeds only.
    """
    methods = [name for name in suite.plan.compared if name not in suite.methods]
    if methods and not suite.reported:
        problem = f"the suite asks for methods that have no results: {', '.join(methods)}"
        yield Finding(str(suite.folder), problem)
    seeds = [] if suite.reported else _find_missing_seeds(suite)
    if seeds:
        problem = f"the suite asks for seeds that no method has: {', '.join(map(str, seeds))}"
        yield Finding(str(suite.folder), problem)
    for method, transfer, first, second in find_equal_seeds(suite.rows):
        problem = f"seeds {first} and {second} have the same counts in every row ('{transfer}')"
        yield Finding(str(suite.folder / f"{method}{ROWS}"), problem)


def _find_missing_seeds(suite: StoredSuite) -> list[int]:
    """Return the seeds without a row.

    A suite with a ranking of its own asks for all its seeds. The others ask for those of their
    first run. Seeds are run in order, so each seed before one that has rows is asked for, too.
    """
    card = suite.card
    have = {int(seed) for seed in suite.rows["seed"].dropna()}
    if card.publish is True:
        asked = card.seeds
    else:
        first = card.run_seeds or card.seeds
        needed = [place for place, seed in enumerate(card.seeds) if seed in have or seed in first]
        asked = card.seeds[: max(needed, default=-1) + 1]
    return [seed for seed in asked if seed not in have]


def find_equal_seeds(rows: pd.DataFrame) -> list[tuple[str, str, int, int]]:
    """Return method, transfer and two seeds wherever all counts of both seeds are equal.

    Another seed draws other images, so equal counts in every row are copies. Modules that change
    no prediction are left out: theirs are zero-shot's counts for every seed.
    """
    counts = [
        name for name, measure in list_measures("answers").items() if measure.unit == "images"
    ]
    measured = rows.loc[rows["status"] == "ok"]
    found = []
    for (method, transfer), group in measured.groupby(["method", "transfer"]):
        by_seed = {}
        for seed, part in group.groupby("seed"):
            by_seed[seed] = part.set_index(PLACE)[counts].sort_index()
        for first, second in combinations(by_seed, 2):
            rows_of_first = by_seed[first]
            changes_something = rows_of_first["correct"] != rows_of_first["zero_shot_correct"]
            if changes_something.any() and rows_of_first.equals(by_seed[second]):
                found.append((str(method), str(transfer), int(first), int(second)))
    return found
