"""Versions and machine: what a reader needs to run a cell again."""

from __future__ import annotations

import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("compatbench", "torch", "open_clip_torch", "timm", "numpy", "scikit-learn")


@lru_cache(maxsize=1)
def provenance() -> dict[str, str]:
    """Versions of what computes the numbers, and the processor."""
    versions = {package: version(package) for package in PACKAGES}
    return versions | {"python": platform.python_version(), "processor": _processor()}


def _processor() -> str:
    """The processor's model, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
