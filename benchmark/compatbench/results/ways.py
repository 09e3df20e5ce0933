"""Ways to bring a module along: what a transfer needs, and which is the cheapest."""

from __future__ import annotations

from compatbench.data.cards import COPIED
from compatbench.data.declared_transfers import Needs, declared_needs
from compatbench.data.labels import ACCESS


def needs_of(transfer: str) -> Needs | None:
    """What a way needs, if it is here; its class is loaded only where its card does not say it."""
    if (needs := declared_needs(transfer)) is not None:
        return needs
    from compatbench.method.registry import known_transfer

    way = known_transfer(transfer)
    return way and Needs(frozenset(way.card.access), getattr(way.config, "shots", 0))


def access_of(transfer: str) -> list[str]:
    """What a way needs besides the module and the target, always in one order.

    ``unknown`` of a transfer that is not here.
    """
    if (needs := needs_of(transfer)) is None:
        return ["unknown"]
    return [each for each in ACCESS if each in needs.access]


def count_shots_of(transfer: str) -> int:
    """The labels per class that a way needs."""
    return needs.shots if (needs := needs_of(transfer)) else 0


def cost_of(transfer: str) -> tuple[int, bool, int, bool]:
    """The least is the cheapest: by labels, the old model beside the new, and other access."""
    needs = access_of(transfer)
    labels = max(count_shots_of(transfer), "labels" in needs)
    return labels, "old model" in needs, len(needs), transfer != COPIED
