"""The naive code for thresholds, which ``docs/thresholds.md`` shows: the product is held to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_PAGE = Path(__file__).parents[1] / "docs" / "thresholds.md"
LINES: dict[str, Any] = {}
exec(_PAGE.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], LINES)
