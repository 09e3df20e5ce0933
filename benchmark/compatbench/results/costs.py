"""What each transfer needs besides the module and the target, and how options compare in cost."""

from __future__ import annotations

from importlib.metadata import entry_points

import pandas as pd

from compatbench.data.cards import COPIED
from compatbench.data.cards.shots import MOST_VALIDATION_SHOTS
from compatbench.data.declared_transfers import Needs, declared_needs
from compatbench.data.labels import ACCESS

UNKNOWN = "unknown"  # what a transfer that is not installed needs
# The columns that order options by what they cost, the cheapest first: labels per class (those of
# the validation images are counted, see ``labels_of``), the old model beside the new one, the
# number of things that are needed, and moving the module at all.
COST = ["labels", "old_model", "access_count", "moved"]


def needs_of(transfer: str) -> Needs:
    """Return what a transfer needs.

    Only a transfer of an installed package, which this process was not told of, is loaded for it.
    """
    needs = declared_needs(transfer)
    if needs is not None:
        return needs
    if not entry_points(group="compatbench.transfers"):
        return Needs(frozenset({UNKNOWN}), 0)
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
