"""Checks that results have what their suite asks for, and that no seed is a copy of another."""

from __future__ import annotations

from collections.abc import Iterator

from compatbench.extras.audit.findings import Finding
from compatbench.extras.audit.stored_suite import ROWS, StoredSuite
from compatbench.results.plausibility import find_equal_seeds


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
