"""Say of which kind a method is: findings compare kinds of methods, not single ones."""

from __future__ import annotations

from collections.abc import Iterable

from compatbench.method.registry import builtin_methods

TEXT_INPUT = "prompts at the text input"
IN_TOWERS = "prompts and updates in the towers"
ADDED = "adapters and caches on features"
OWN_WEIGHTS = "classifiers on features"
KINDS = (TEXT_INPUT, IN_TOWERS, ADDED, OWN_WEIGHTS)


def kind_of(name: str) -> str | None:
    """Return the kind of a method; None if it trains no module, or sees the test images.

    Of the methods on features, adapters and caches add something to zero-shot: their cards say at
    which module nothing is added. Classifiers have class weights of their own.

    Args:
        name: the method's name, also with a setting, such as ``coop+context-4``.
    """
    card = builtin_methods().get(name.partition("+")[0]).card
    if not card.learns or "stream" in card.needs:
        return None
    places = set(card.places)
    if places == {"text-input"}:
        return TEXT_INPUT
    if places - {"feature", "classifier"}:
        return IN_TOWERS
    return ADDED if card.zero_shot_at else OWN_WEIGHTS


def group_methods(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the methods of each kind that has any, in the order of ``KINDS``."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(kind_of(name) or "", []).append(name)
    return {kind: groups[kind] for kind in KINDS if kind in groups}
