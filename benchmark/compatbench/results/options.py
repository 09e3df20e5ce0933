"""The options of an owner in an upgrade: what each needs and costs, and what was measured of it.

An option is a method with a transfer, such as CoOp copied or ProKeR through words. Staying with the
old model and dropping the module for zero-shot are options, too.
"""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.data.cards.shots import MOST_VALIDATION_SHOTS
from compatbench.data.declared_transfers import Needs, declared_needs
from compatbench.data.labels import ACCESS
from compatbench.results.expected import Expected, Upgrade
from compatbench.results.ranking import rank_methods
from compatbench.results.suite_results import SuiteResults
from compatbench.results.upgrade_rows import pair_rows, task_means

UNKNOWN = "unknown"  # what a transfer that is not installed needs
# The columns that order options by what they cost, the cheapest first: labels per class (those of
# the validation images are counted, see ``labels_of``), the old model beside the new one, the
# number of things that are needed, and moving the module at all.
COST = ["labels", "old_model", "access_count", "moved"]


@lru_cache(maxsize=64)
def list_options(
    results: SuiteResults, expected: Expected, upgrade: Upgrade
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return every option that methods with a rank have at the most shots.

    Methods that learn nothing or see the test images are left out. The frames are cached: never
    change them in place.

    Returns:
        A row per option: ``method``, ``title``, ``paper``, ``transfer`` (of the rows), ``needs``
        (a frozen set) and the columns of ``COST``; and of the same options the accuracy on the
        target and the gain over its zero-shot, ``[options, tasks]``, in percent and points.
    """
    shots = max(expected.shots)
    ranking = rank_methods(results, expected, (upgrade,), shots)
    kept = (ranking["state"] == "complete") & ranking["learns"] & ~ranking["sees_tests"]
    known = ranking["ranked_with"].map(lambda transfer: UNKNOWN not in access_of(transfer))
    ranking = ranking[kept & known]
    rows = pair_rows(results, expected, upgrade, shots)
    options = ranking[["module", "method", "title", "paper", "transfer"]].copy()
    options["needs"] = [frozenset(access_of(name)) for name in ranking["ranked_with"]]
    costs = pd.DataFrame([cost_of(name) for name in ranking["ranked_with"]], columns=COST)
    options = pd.concat([options.reset_index(drop=True), costs], axis="columns")
    accuracy = task_means(rows, "target").loc[options["module"]]
    gain = task_means(rows, "gain").loc[options["module"]]
    options = options.set_index("module")
    return options, accuracy, gain


def needs_of(transfer: str) -> Needs:
    """Return what a transfer needs. Its class is loaded only if its card does not say it."""
    needs = declared_needs(transfer)
    if needs is not None:
        return needs
    from compatbench.method.registry import known_transfer

    known = known_transfer(transfer)
    if known is None:
        return Needs(frozenset({UNKNOWN}), 0)
    return Needs(frozenset(known.card.access), getattr(known.config, "shots", 0))


def access_of(transfer: str) -> list[str]:
    """Return what a transfer needs besides the module and the target, always in one order."""
    access = needs_of(transfer).access
    return [each for each in (*ACCESS, UNKNOWN) if each in access]


def labels_of(transfer: str) -> int:
    """Return how many labelled images per class a transfer is given; 0 if it needs none.

    Besides the k of its name, such as 16 of ``retrained+16``, it is given up to 4 for choosing
    settings (``draw_first``), so ``retrained+1`` has 2 and ``retrained+16`` has 20. They count for
    every method: labels are needed to find out what a method does with them.
    """
    shots = needs_of(transfer).shots
    return shots + min(shots, MOST_VALIDATION_SHOTS)


def cost_of(transfer: str) -> tuple[int, bool, int, bool]:
    """Return the columns of ``COST``; the least is the cheapest."""
    needs = access_of(transfer)
    labels = max(labels_of(transfer), int("labels" in needs))
    return labels, "old model" in needs, len(needs), transfer != COPIED


def cost_table(options: pd.DataFrame) -> dict[str, tuple[float, ...]]:
    """Return what each option costs, from the columns of ``COST``."""
    costs = options[COST].to_numpy(dtype=float)
    return {str(name): tuple(cost) for name, cost in zip(options.index, costs, strict=True)}
