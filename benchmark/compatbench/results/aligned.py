"""Modules that are attached through a map between two models, told apart from copied ones.

A map from the source's features to the target's is more than the old module: whoever attaches
through one has computed something of the upgrade. Such methods bear the name of the method with
a suffix, are ranked among themselves, and never stand in the ranking of untouched modules.
"""

from __future__ import annotations

SUFFIX = "+aligned"


def copied_name(name: str) -> str | None:
    """The method whose module ``name`` attaches through a map; None if it attaches it untouched."""
    return name.removesuffix(SUFFIX) if name.endswith(SUFFIX) else None


def can_be_retrained(name: str, learns: bool) -> bool:
    """Whether a fit on the target tells of it: it learns, and its module needs no map there."""
    return learns and copied_name(name) is None
