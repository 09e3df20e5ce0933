"""Settings by dotted names; pages read them without PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat_settings(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """``recipe.lr`` and its value, for every setting, by name."""
    settings: list[tuple[str, Any]] = []
    for name, value in sorted(config.items()):
        inner = isinstance(value, Mapping) and value
        settings += (
            flat_settings(value, f"{prefix}{name}.") if inner else [(f"{prefix}{name}", value)]
        )
    return settings
