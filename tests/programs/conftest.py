"""Put the programs of benchmark/ on the path: they import each other by their own names."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmark"
for folder in (".", "authors", "research", "speed"):
    sys.path.append(str(BENCHMARK / folder))
