"""Settings by dotted names; pages read them without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return each setting by its dotted name, such as ``recipe.lr``, with its value, by name."""
    settings: list[tuple[str, Any]] = []
    for name, value in sorted(config.items()):
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            settings += flat_settings(value, f"{dotted}.")
        else:
            settings.append((dotted, value))
    return settings
