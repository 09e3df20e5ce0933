"""An object whose pickle runs code."""

from __future__ import annotations

from pathlib import Path


class TouchesFile:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)
